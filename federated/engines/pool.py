"""Clients side by side: a ``Grid`` whose messages are handled by a few workers that may die, hang or fail to start.

What a worker is, a process of this machine or a Ray actor, is left to a subclass. A worker handles one message at a
time, so that one that dies or hangs costs one client its round. It is then replaced. A replacement that cannot be
started is tried again after a pause, a few times; the others go on without it.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from flwr.app import Error, Message, MessageType

from federated.client.failures import CLIENT_FAILED, HANG_GRACE, ClientTimeout
from federated.client_app import client_app
from federated.engines.inprocess import InProcessGrid
from fps_pretrain.common.errors import UserError

log = logging.getLogger(__name__)

START_ATTEMPTS = 5
"""Starts in a row that may fail in the place of one worker before that place is given up."""

START_PAUSE = 1.0
"""Seconds before a failed start is repeated; the pause doubles each time."""

START_LIMIT = 300.0
"""Seconds after which a worker that has not reported to be ready counts as one that failed to start."""

POLL = 0.5
"""Longest time in seconds that ``pull_messages`` waits for a reply."""


class EngineFailed(RuntimeError):
    """No worker is left and none can be started. The run can be resumed from its last completed round."""


class WorkerDied(RuntimeError):
    """A worker is gone; the message says how it ended."""


class Worker(ABC):
    """One process that handles messages, one at a time.

    Attributes:
        ready: whether it has reported that it takes messages.
        message: what it works on, or None.
        since: when it was started or given its message, in seconds of ``time.monotonic``.
        failed_starts: starts that failed in a row before it, in its place.
        is_replacement: whether another worker had its place before.
    """

    ready = False
    message: Message | None = None
    failed_starts = 0
    is_replacement = False

    def __init__(self) -> None:
        self.since = time.monotonic()

    @abstractmethod
    def send(self, message: Message) -> None:
        """Hand it a message.

        Raises:
            WorkerDied: it was gone before it could begin.
        """

    @abstractmethod
    def receive(self) -> Message | None:
        """What it has sent: once None, when it is ready, then its replies.

        Raises:
            WorkerDied: it is gone.
        """

    @abstractmethod
    def end(self) -> None:
        """End it, whatever it does."""


@dataclass(frozen=True)
class _Restart:
    """A worker that is to be started at a time of ``time.monotonic``."""

    due: float
    failed_starts: int


class PoolGrid(InProcessGrid, ABC):
    """The nodes of ``InProcessGrid``, whose messages are handled by workers.

    Use it as a context manager: its workers end with the block.

    Args:
        num_clients: number of nodes.
        num_workers: number of workers.
        client_timeout: seconds after which, and a grace period, a worker that hangs is replaced; None for never.

    Raises:
        UserError: a worker cannot be started.
    """

    def __init__(self, num_clients: int, num_workers: int, client_timeout: float | None) -> None:
        super().__init__(client_app, num_clients)
        self._limit = None if client_timeout is None else client_timeout + HANG_GRACE
        self._replies: dict[str, Message] = {}
        self._workers: list[Worker] = []
        self._restarts: list[_Restart] = []
        self._num_workers = num_workers
        try:
            for _ in range(num_workers):
                self._start()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _new_worker(self) -> Worker:
        """Start a worker, without waiting until it is ready.

        Raises:
            WorkerDied: it cannot be started.
        """

    @abstractmethod
    def _wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        """Those of ``workers`` that have sent something or are gone; waits for one, but no longer than ``seconds``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.end()
        self._workers, self._restarts = [], []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived; waits for one, but never long.

        Raises:
            UserError: a worker of the first ones ended before it took a message.
            EngineFailed: no worker is left.
        """
        self._restart()
        self._dispatch()
        awaited = [worker for worker in self._workers if worker.message or not worker.ready]
        arrived = self._wait(awaited, POLL) if awaited else []
        now = time.monotonic()
        for worker in awaited:
            if worker in arrived:
                self._collect(worker)
            elif worker.message and self._limit is not None and now - worker.since > self._limit:
                self._replace(worker, f"{ClientTimeout.__name__}: hung for {self._limit:g} s and was ended")
            elif not worker.ready and now - worker.since > START_LIMIT:
                self._replace(worker, f"it was not ready in {START_LIMIT:g} s")
        self._dispatch()
        wanted = message_ids if isinstance(message_ids, set) else set(message_ids)
        return [self._replies.pop(identifier) for identifier in list(self._replies) if identifier in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies to all messages, in their order; not ``timeout`` but ``client_timeout`` ends those that hang."""
        identifiers = list(self.push_messages(messages))
        replies: dict[str, Message] = {}
        while len(replies) < len(identifiers):
            arrived = self.pull_messages(set(identifiers))
            for reply in arrived:
                replies[reply.metadata.reply_to_message_id] = reply
            if not arrived:
                time.sleep(0.01)
        return [replies[identifier] for identifier in identifiers]

    def _dispatch(self) -> None:
        """Hand messages to idle workers. Queries are answered here, which is quicker than sending them."""
        for identifier, message in list(self._pending.items()):
            if message.metadata.message_type == MessageType.QUERY:
                self._replies[identifier] = self.handle(self._pending.pop(identifier))
        for worker in list(self._workers):
            if worker.ready and worker.message is None and self._pending:
                identifier, message = next(iter(self._pending.items()))
                try:
                    worker.send(message)
                except WorkerDied as error:  # it died while idle: the message stays queued
                    self._replace(worker, str(error))
                else:
                    worker.message, worker.since = self._pending.pop(identifier), time.monotonic()

    def _collect(self, worker: Worker) -> None:
        """Take what a worker has sent, or learn that it died."""
        try:
            reply = worker.receive()
        except WorkerDied as error:
            self._replace(worker, f"{WorkerDied.__name__}: {error}" if worker.message else str(error))
            return
        if worker.message is not None and reply is not None:
            self._replies[worker.message.metadata.message_id] = reply
        worker.ready, worker.message = True, None

    def _replace(self, worker: Worker, reason: str) -> None:
        """End a worker, answer its message, if it has one, with an error, and have another put in its place."""
        if worker.message is not None:
            error = Message(Error(CLIENT_FAILED, reason), reply_to=worker.message)
            self._replies[worker.message.metadata.message_id] = error
        worker.end()
        self._workers.remove(worker)
        if worker.ready:
            self._start(is_replacement=True)
        else:
            self._not_started(reason, worker.failed_starts + 1, worker.is_replacement)

    def _restart(self) -> None:
        """Start the workers whose time has come."""
        now = time.monotonic()
        due = [restart for restart in self._restarts if restart.due <= now]
        self._restarts = [restart for restart in self._restarts if restart.due > now]
        for restart in due:
            self._start(restart.failed_starts, is_replacement=True)

    def _start(self, failed_starts: int = 0, is_replacement: bool = False) -> None:
        try:
            worker = self._new_worker()
        except WorkerDied as error:
            self._not_started(str(error), failed_starts + 1, is_replacement)
            return
        worker.failed_starts, worker.is_replacement = failed_starts, is_replacement
        self._workers.append(worker)

    def _not_started(self, reason: str, failed_starts: int, is_replacement: bool) -> None:
        """Have a failed start repeated later, or give its place up.

        Raises:
            UserError: it is one of the first workers: so many cannot be had here.
            EngineFailed: it was the last place.
        """
        if not is_replacement:
            raise UserError(f"--workers {self._num_workers}: one cannot start, {reason}; take fewer")
        log.debug(f"start {failed_starts} of {START_ATTEMPTS} of a worker failed: {reason}")
        if failed_starts < START_ATTEMPTS:
            pause = START_PAUSE * 2 ** (failed_starts - 1)
            self._restarts.append(_Restart(time.monotonic() + pause, failed_starts))
            return
        left = len(self._workers) + len(self._restarts)
        if not left:
            raise EngineFailed(f"no worker is left: the last one could not be started again, {reason}")
        log.warning(f"a worker could not be started again, {reason}; going on with {left} of {self._num_workers}")
