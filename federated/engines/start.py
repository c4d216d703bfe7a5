"""The engine that a configuration asks for, started and ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from federated import open_workspace
from federated.client.workspace import Workspace
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.data.memmap import export_memmap
from federated.engines import ray
from federated.engines.inprocess import InProcessGrid
from federated.engines.workers import WorkerGrid


@dataclass(frozen=True)
class Engine:
    """What trains the clients.

    Attributes:
        grid: its nodes.
        message_config: what messages tell of the run.
        remote: whether its nodes may be anywhere, train all at a time, and may hang: other engines end those that do.
    """

    grid: Grid
    message_config: ConfigRecord
    remote: bool = False


@contextmanager
def start(
    config: RunConfig, space: Workspace, partition_file: Path, training_data: Path, client_states: Path, run: str
) -> Iterator[Engine]:
    """Start the engine of ``config``, which ends with the block.

    Args:
        config: the run.
        space: the workspace of this process, which clients in this process share.
        partition_file: which client holds which example.
        training_data: a folder that may be made for the training examples; it is removed with the engine.
        client_states: where clients keep what they remember.
        run: which run this is, see ``State.run``.

    Raises:
        UserError: its workers cannot be started.
    """
    uses_processes = config.engine == "inprocess" and config.processes > 0
    message_config = open_workspace.message_config(
        config, partition_file, training_data if uses_processes else None, client_states, run=run
    )
    open_workspace.share(message_config, space)
    if config.engine == "ray":
        with ray.ray_grid(config, space, message_config) as grid:
            yield Engine(grid, message_config)
    elif uses_processes:
        export_memmap(space.dataset, training_data, test=config.asks_clients)
        gpus = torch.cuda.device_count() if space.device.type == "cuda" else 0
        try:
            with WorkerGrid(config.clients, config.processes, message_config, config.client_timeout, gpus) as grid:
                yield Engine(grid, message_config)
        finally:
            shutil.rmtree(training_data, ignore_errors=True)
    else:
        yield Engine(InProcessGrid(client_app, config.clients), message_config)


def remote(config: RunConfig, space: Workspace, partition_file: Path, run: str, grid: Grid) -> Engine:
    """An engine of nodes that are there already and may be anywhere, so that files of this machine mean nothing there.

    Args:
        config: the run.
        space: the workspace of this process.
        partition_file: which client holds which example.
        run: which run this is.
        grid: has a node for each client.
    """
    classes: Sequence[str] = space.dataset.classes if config.partition == "nodes" else ()
    message_config = open_workspace.message_config(config, partition_file, classes=classes, run=run)
    open_workspace.share(message_config, space)
    return Engine(grid, message_config, remote=True)
