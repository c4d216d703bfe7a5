"""Clients side by side in processes of this machine: a ``Grid`` like the in-process one, over a few workers.

A worker is this project's ClientApp in a process of its own, started once, with the training examples mapped into its
memory. It gets one message at a time, so that one that dies or hangs costs one client's round and is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from flwr.app import ConfigRecord, Error, Message, MessageType

from federated.client import workspace
from federated.client.failures import CLIENT_FAILED, HANG_GRACE, ClientTimeout
from federated.client_app import client_app
from federated.engines.inprocess import InProcessGrid
from fps_pretrain.common.errors import UserError


@dataclass
class _Worker:
    """A process, whether it has begun to take messages, and what it works on since when."""

    process: ForkServerProcess
    connection: Connection
    ready: bool = False
    message: Message | None = None
    started: float = 0.0


class WorkerGrid(InProcessGrid):
    """The nodes of ``InProcessGrid``, whose messages are handled by worker processes, one at a time each.

    Args:
        num_clients: number of nodes.
        num_workers: number of processes.
        message_config: what messages tell of the run; workers open its workspace before they take messages.
        client_timeout: seconds after which, and a grace period, a worker that hangs is replaced; None for never.
    """

    def __init__(
        self, num_clients: int, num_workers: int, message_config: ConfigRecord, client_timeout: float | None
    ) -> None:
        super().__init__(client_app, num_clients)
        self._num_clients = num_clients
        self._message_config = message_config
        self._limit = None if client_timeout is None else client_timeout + HANG_GRACE
        # A server that has imported PyTorch once forks the workers: half a second each, where a fresh one takes five.
        # It has no threads yet, which forking this process might not survive.
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._replies: dict[str, Message] = {}
        self._workers = [self._start() for _ in range(num_workers)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived; waits for one, but never long.

        Raises:
            UserError: a worker ended before it took a message.
        """
        self._dispatch()
        awaited = [worker for worker in self._workers if worker.message or not worker.ready]
        arrived = wait([worker.connection for worker in awaited], timeout=0.5) if awaited else []
        for worker in awaited:
            if worker.connection in arrived:
                self._collect(worker)
            elif worker.message and self._limit is not None and time.monotonic() - worker.started > self._limit:
                self._replace(worker, f"{ClientTimeout.__name__}: hung for {self._limit:g} s and was ended")
        self._dispatch()
        wanted = message_ids if isinstance(message_ids, set) else set(message_ids)
        return [self._replies.pop(identifier) for identifier in list(self._replies) if identifier in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies to all messages, in their order; not ``timeout`` but ``client_timeout`` ends those that hang."""
        identifiers = list(self.push_messages(messages))
        replies: dict[str, Message] = {}
        while len(replies) < len(identifiers):
            for reply in self.pull_messages(set(identifiers)):
                replies[reply.metadata.reply_to_message_id] = reply
        return [replies[identifier] for identifier in identifiers]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._end(worker)

    def _dispatch(self) -> None:
        """Answer queries, which is sooner done than sent, and hand other messages to idle workers."""
        for identifier, message in list(self._pending.items()):
            if message.metadata.message_type == MessageType.QUERY:
                self._replies[identifier] = self.handle(self._pending.pop(identifier))
        for worker in list(self._workers):
            if worker.ready and worker.message is None and self._pending:
                identifier = next(iter(self._pending))
                message = self._pending[identifier]
                try:
                    worker.connection.send(message)
                except OSError:  # it died while idle; what it cannot have begun is left for its successor
                    self._replace(worker, "")
                else:
                    worker.message, worker.started = self._pending.pop(identifier), time.monotonic()

    def _collect(self, worker: _Worker) -> None:
        """Take what a worker has sent, or learn that it died."""
        try:
            reply = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            ended = f"its process ended with exit code {worker.process.exitcode}"
            if not worker.ready:
                raise UserError(f"--workers {len(self._workers)}: one cannot start, {ended}; take fewer") from None
            self._replace(worker, f"WorkerDied: {ended}")
            return
        if worker.message is not None:
            self._replies[worker.message.metadata.message_id] = reply
        worker.ready, worker.message = True, None

    def _replace(self, worker: _Worker, reason: str) -> None:
        """End a worker, answer its message, if it has one, with an error, and put another in its place."""
        if worker.message is not None:
            error = Message(Error(CLIENT_FAILED, reason), reply_to=worker.message)
            self._replies[worker.message.metadata.message_id] = error
        self._end(worker)
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._num_clients, self._message_config), daemon=True, name="client-worker"
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.connection.close()
        worker.process.kill()
        worker.process.join()


@contextlib.contextmanager
def worker_grid(
    num_clients: int, num_workers: int, message_config: ConfigRecord, client_timeout: float | None
) -> Iterator[WorkerGrid]:
    """A ``WorkerGrid`` whose workers end with the block."""
    grid = WorkerGrid(num_clients, num_workers, message_config, client_timeout)
    try:
        yield grid
    finally:
        grid.close()


def _work(connection: Connection, num_clients: int, message_config: ConfigRecord) -> None:
    """A worker's life: handle messages until the other end of the connection is closed, or gone."""
    # Ctrl-C reaches every process of a terminal; the one that leads ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workspace.find(message_config)
    grid = InProcessGrid(client_app, num_clients)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(None)  # ready
        while True:
            connection.send(grid.handle(connection.recv()))
