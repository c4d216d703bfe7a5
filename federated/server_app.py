"""Flower's ServerApp: the round loop on Flower's own grid (``flwr run .``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federated.config.file import read_file
from federated.config.run import RunConfig, from_yaml, unused_beside
from federated.server import rounds
from federated.server.progress import console, log
from fps_pretrain.common.errors import UserError

REMINDER = 60.0
"""Seconds between two lines about nodes that are waited for."""

NODE_TIMEOUT = 600.0
"""Seconds to wait for all nodes unless the configuration says otherwise."""

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run that ``context.run_config`` describes, once Flower's grid has a node for each client."""
    logging.getLogger("flwr").addFilter(without_traceback)
    config = config_of(context.run_config)
    with console(quiet=False):
        wait_for_nodes(grid, config.clients, getattr(config, "node_timeout", NODE_TIMEOUT))
    rounds.run(config, grid=grid)


def without_traceback(record: logging.LogRecord) -> bool:
    """Shorten Flower's message about an error that the user can mend to one line; other errors keep their traceback.

    The exception itself must reach Flower: it marks the run as failed and keeps the reason.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (UserError, rounds.RunFailed, OSError)):
        hint = "; the same command goes on from the last completed round" if isinstance(error, rounds.RunFailed) else ""
        record.msg, record.args = "%s: %s%s", (record.getMessage(), " ".join(str(error).split()), hint)
        record.exc_info = record.exc_text = None
    return True


def config_of(run_config: Mapping[str, Any]) -> RunConfig:
    """The configuration that Flower's options describe: flags without their dashes in front.

    One that is empty is not given. The others override the YAML file that ``config`` names on the server.

    Raises:
        UserError: the file cannot be read, or a value is out of range.
    """
    given = {name.replace("-", "_"): value for name, value in run_config.items() if value != ""}
    path = given.pop("config", None)
    values = read_file(Path(str(path))) if path else {}
    kept = {name: value for name, value in values.items() if name not in unused_beside(values, set(given))}
    return from_yaml(yaml.safe_dump({**kept, **given}))


def wait_for_nodes(grid: Grid, clients: int, timeout: float) -> None:
    """Return once there are as many nodes as clients; machines need not be started in any order.

    Args:
        grid: lists the nodes that are connected.
        clients: how many are needed.
        timeout: seconds to wait.

    Raises:
        UserError: there are too few after that time.
    """
    end, reminded = time.monotonic() + timeout, -REMINDER
    while (found := len(list(grid.get_node_ids()))) < clients:
        now = time.monotonic()
        if now >= end:
            raise UserError(
                f"{found} of {clients} nodes are connected after {timeout:g} s (--node-timeout): start the others"
            )
        if now - reminded > REMINDER:
            log.info(f"waiting for nodes: {found} of {clients} are connected")
            reminded = now
        time.sleep(min(1.0, end - now))
