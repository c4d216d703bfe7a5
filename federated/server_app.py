"""Flower's ServerApp: the round loop on Flower's own grid (``flwr run .``)."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federated.config import file as config_file
from federated.config.run import RunConfig
from federated.results.evaluation import evaluate
from federated.server import run as rounds
from federated.server.output.progress import console, log
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError, printable

REMINDER = 60.0
"""Seconds between two lines about nodes that are waited for."""

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run that ``context.run_config`` describes, once Flower's grid has a node for each client."""
    logging.getLogger("flwr").addFilter(without_traceback)
    config = config_of(context.run_config)
    with console(quiet=False):
        wait_for_nodes(grid, config.clients, config.node_timeout)
    rounds.run(config, grid=grid)
    evaluate(config)


def without_traceback(record: logging.LogRecord) -> bool:
    """Shorten Flower's message about an error that the user can mend to one line; other errors keep their traceback.

    The exception itself must reach Flower: it marks the run as failed and keeps the reason.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (UserError, OSError)):
        hint = f"; {error.advice}" if isinstance(error, rounds.RunFailed) else ""
        record.msg, record.args = "%s: %s%s", (record.getMessage(), printable(error), hint)
        record.exc_info = record.exc_text = None
    return True


def config_of(run_config: Mapping[str, Any]) -> RunConfig:
    """The configuration that Flower's two options describe.

    Args:
        run_config: ``flags``, a line of run_fl.py's flags, and ``config``, a YAML file of options on the server, which
            the flags override; either may be empty.

    Raises:
        UserError: the file cannot be read, or a flag or value is wrong.
    """
    for name in set(run_config) - {"config", "flags"}:
        raise UserError(f'{name} is no option of the app: flags="--{name} VALUE" takes those of run_fl.py')
    path, line = (str(run_config.get(name, "")) for name in ("config", "flags"))
    try:
        flags = shlex.split(line)
    except ValueError as error:
        raise UserError(f"flags cannot be split into words: {error}") from error
    if {"-h", "--help"} & set(flags):
        raise UserError("run_fl.py --help shows the flags")
    return cli.read(RunConfig, "flags", config_file.expand([*([f"--config={path}"] if path else []), *flags]))


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
