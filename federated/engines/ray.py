"""Flower's simulation on Ray: clients in parallel, one worker a CPU core."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue

from flwr.app import ConfigRecordValues, Context
from flwr.serverapp import Grid, ServerApp

from federated.client_app import client_app
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError

BackendConfig = dict[str, dict[str, ConfigRecordValues]]


def check_installed() -> None:
    """Refuse the Ray engine where Ray is not installed.

    Raises:
        UserError: there is no Ray.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'fps-federated[ray]'")


@contextmanager
def ray_grid(config: RunConfig, use_gpu: bool) -> Iterator[tuple[Grid, Callable[[], None]]]:
    """Start the simulation, lend its grid, and end it.

    Flower calls a ServerApp in a thread of its own while the main thread waits for Ray. Here the simulation has the
    thread, and its ServerApp does nothing but lend its grid: the round loop stays in the caller's thread, where Ctrl-C
    arrives, for every engine alike.

    Yields:
        The grid, and a function that raises RuntimeError once the simulation has died.
    """
    from flwr.simulation import run_simulation

    lent: Queue[Grid | None] = Queue()
    finished = threading.Event()
    failures: list[BaseException] = []
    server_app = ServerApp()

    @server_app.main()
    def lend(grid: Grid, context: Context) -> None:
        lent.put(grid)
        finished.wait()

    def simulate() -> None:
        try:
            run_simulation(server_app, client_app, config.clients, backend_config=_backend_config(config, use_gpu))
        except BaseException as error:  # Flower also leaves by SystemExit; the caller's thread decides what to do
            failures.append(error)
        finally:
            lent.put(None)

    def check() -> None:
        if not thread.is_alive():
            raise RuntimeError(f"Flower's simulation ended: {failures[0] if failures else 'no reason given'}")

    thread = threading.Thread(target=simulate, name="flower-simulation")
    thread.start()
    try:
        grid = lent.get()
        if grid is None:
            thread.join()
            check()
        assert grid is not None
        while len(list(grid.get_node_ids())) < config.clients:  # nodes are registered in a thread of Flower's
            check()
            time.sleep(0.05)
        yield grid, check
    finally:
        finished.set()
        thread.join()


def actors(config: RunConfig) -> int:
    """How many clients train side by side: ``--workers``, or as many as have ``--threads`` cores each."""
    return min(config.workers or _cores() // _threads(config), config.clients)


def _cores() -> int:
    return os.cpu_count() or 1


def _threads(config: RunConfig) -> int:
    return min(config.threads or 1, _cores())


def _backend_config(config: RunConfig, use_gpu: bool) -> BackendConfig:
    threads, workers = _threads(config), actors(config)
    return {
        "client_resources": {"num_cpus": threads, "num_gpus": 1 / workers if use_gpu else 0},
        "init_args": {"num_cpus": workers * threads, "logging_level": logging.ERROR, "log_to_driver": False},
    }
