"""Workers that are processes of this machine: this project's ClientApp, started once for each.

They have the training examples mapped into their memory, one copy for all of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType

import torch
from flwr.app import ConfigRecord, Message

from federated import open_workspace
from federated.client_app import client_app
from federated.engines.inprocess import InProcessGrid
from federated.engines.pool import PoolGrid, Worker, WorkerDied


class ProcessWorker(Worker):
    """A process, the connection to it, and the number of its GPU, where it has one."""

    def __init__(self, process: ForkServerProcess, connection: Connection, gpu: int | None) -> None:
        super().__init__()
        self.process = process
        self.connection = connection
        self.gpu = gpu

    def send(self, message: Message) -> None:
        """Hand it a message."""
        try:
            self.connection.send(message)
        except OSError as error:
            raise WorkerDied("its process ended while it was idle") from error

    def receive(self) -> Message | None:
        """What it has sent."""
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise WorkerDied(f"its process ended with exit code {self.process.exitcode}") from error

    def end(self) -> None:
        """Kill the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class WorkerGrid(PoolGrid):
    """A pool of processes.

    Args:
        num_clients: number of nodes.
        num_workers: number of processes.
        message_config: what messages tell of the run; workers open its workspace before they take messages.
        client_timeout: see ``PoolGrid``.
        gpus: how many GPUs the processes are spread over; 0 where they train on the CPU.
    """

    def __init__(
        self,
        num_clients: int,
        num_workers: int,
        message_config: ConfigRecord,
        client_timeout: float | None,
        gpus: int = 0,
    ) -> None:
        self._num_clients = num_clients
        self._gpus = gpus
        self._message_config = message_config
        # A server that has imported PyTorch once forks the workers: half a second each, where a fresh one takes five.
        # It has no threads yet, which forking this process might not survive.
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        super().__init__(num_clients, num_workers, client_timeout)

    def _new_worker(self) -> ProcessWorker:
        ours, theirs = self._context.Pipe()
        gpu = least_used(self._gpus, [worker.gpu for worker in self._processes()])
        process = self._context.Process(
            target=_work, args=(theirs, self._num_clients, self._message_config, gpu), daemon=True, name="client-worker"
        )
        try:
            with _no_main_module():
                process.start()
        except (OSError, EOFError) as error:  # too many processes or files, no memory
            ours.close()
            raise WorkerDied(f"its process could not be started ({type(error).__name__}: {error})") from error
        finally:
            theirs.close()
        return ProcessWorker(process, ours, gpu)

    def _processes(self) -> list[ProcessWorker]:
        return [worker for worker in self._workers if isinstance(worker, ProcessWorker)]

    def _wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        processes = [worker for worker in workers if isinstance(worker, ProcessWorker)]
        arrived = wait([worker.connection for worker in processes], seconds)
        return [worker for worker in processes if worker.connection in arrived]


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep multiprocessing from running the program's file again in a new process, which needs nothing of it.

    It would begin the run once more where a script calls ``run`` without asking whether it is the main module.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def least_used(gpus: int, taken: Sequence[int | None]) -> int | None:
    """The first of ``gpus`` numbers that ``taken`` has least often; None where there are none."""
    return min(range(gpus), key=taken.count) if gpus else None


def _work(connection: Connection, num_clients: int, message_config: ConfigRecord, gpu: int | None) -> None:
    """A worker's life: handle messages until the other end of the connection is closed, or gone."""
    # Ctrl-C reaches every process of a terminal; the one that leads ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    open_workspace.find(message_config)
    grid = InProcessGrid(client_app, num_clients)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(None)  # ready
        while True:
            connection.send(grid.handle(connection.recv()))
