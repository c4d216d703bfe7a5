"""When workers count as hung, how often a lost one is started again, and when the run has none left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
from flwr.app import Message, RecordDict

from federated.engines import pool
from federated.engines.pool import EngineFailed, PoolGrid, Worker, WorkerDied


class Hour:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Hand(Worker):
    """A worker of this process: it is ready, answers or is dead when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Message | None] = [None]  # ready
        self.dead = self.ended = False

    def send(self, message: Message) -> None:
        if self.dead:
            raise WorkerDied("dead while it was idle")

    def receive(self) -> Message | None:
        if self.dead:
            raise WorkerDied("dead at work")
        return self.sent.pop()

    def end(self) -> None:
        self.ended = True

    def answer(self) -> None:
        assert self.message is not None
        self.sent.append(Message(RecordDict(), reply_to=self.message))


class Hands(PoolGrid):
    """As many of them as there is ``room`` for."""

    room = 100

    def _new_worker(self) -> Hand:
        if self.room == 0:
            raise WorkerDied("no room")
        self.room -= 1
        return Hand()

    def _wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        return [worker for worker in workers if isinstance(worker, Hand) and (worker.dead or worker.sent)]

    @property
    def hands(self) -> list[Hand]:
        return [worker for worker in self._workers if isinstance(worker, Hand)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hour]:
    clock = Hour()
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=lambda _: None))
    return clock


def messages(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), node, "train") for node in nodes]


def test_the_time_of_a_client_begins_with_its_message(clock: Hour) -> None:
    with Hands(2, 1, client_timeout=10.0) as grid:
        grid.pull_messages([])
        (hand,) = grid.hands
        clock.now += 10_000  # it was idle for long
        first, second = grid.push_messages(messages(2, 3))
        assert grid.pull_messages({first, second}) == []
        clock.now += 10 + pool.HANG_GRACE
        assert grid.pull_messages({first, second}) == [], "it has a grace period"
        hand.answer()
        (reply,) = grid.pull_messages({first, second})
        assert reply.metadata.reply_to_message_id == first
        clock.now += 10 + pool.HANG_GRACE
        assert grid.pull_messages({second}) == [], "the next client has all of its time"
        clock.now += 1
        (reply,) = grid.pull_messages({second})
        assert reply.error.reason == f"ClientTimeout: hung for {10 + pool.HANG_GRACE:g} s and was ended"
        assert hand.ended
        assert grid.hands != [hand]


def test_a_lost_worker_is_started_again_five_times_with_longer_and_longer_pauses(clock: Hour) -> None:
    with Hands(2, 2, None) as grid:
        grid.pull_messages([])
        grid.room, first = 0, grid.hands[0]
        first.dead = True
        (identifier, _) = grid.push_messages(messages(2, 3))
        for tried, pause in enumerate((1, 2, 4, 8), 1):
            grid.pull_messages([])
            assert [(restart.due - clock.now, restart.failed_starts) for restart in grid._restarts] == [(pause, tried)]
            clock.now += pause - 0.1
            grid.pull_messages([])
            assert [restart.failed_starts for restart in grid._restarts] == [tried], "not before its time"
            clock.now += 0.1
        grid.pull_messages([])
        assert grid._restarts == []
        assert len(grid.hands) == 1, "its place is given up, and the other worker goes on"
        grid.hands[0].answer()
        (reply,) = grid.pull_messages({identifier})
        assert not reply.has_error(), "the message was never handed out, so it is not lost"


def test_a_place_that_is_given_up_does_not_end_the_run_while_another_may_come_back(clock: Hour) -> None:
    with Hands(2, 2, None) as grid:
        grid.pull_messages([])
        grid.room, (one, other) = 0, grid.hands
        grid.push_messages(messages(2, 3))
        one.dead = True
        for pause in (1, 2, 4, 7.5):
            grid.pull_messages([])
            clock.now += pause
        other.dead = True  # half a second before the last start in the place of the first
        grid.pull_messages([])
        assert sorted(restart.failed_starts for restart in grid._restarts) == [1, 4]
        clock.now += 0.5
        grid.pull_messages([])
        assert [restart.failed_starts for restart in grid._restarts] == [1]
        grid.room = 1
        clock.now += 0.5
        grid.pull_messages([])
        (hand,) = grid.hands
        hand.answer()
        grid.pull_messages([])
        hand.dead, grid.room = True, 0
        grid.push_messages(messages(2))
        grid.pull_messages([])
        assert [restart.failed_starts for restart in grid._restarts] == [1], "one that has worked has all tries again"


def test_a_run_whose_last_place_is_given_up_has_no_worker_left(clock: Hour) -> None:
    with Hands(1, 1, None) as grid:
        grid.pull_messages([])
        grid.room, grid.hands[0].dead = 0, True
        grid.push_messages(messages(2))
        for pause in (1, 2, 4, 8):
            grid.pull_messages([])
            clock.now += pause
        with pytest.raises(EngineFailed, match="no worker is left: the last one could not be started again, no room"):
            grid.pull_messages([])


def test_replies_stand_in_the_order_of_their_messages(clock: Hour) -> None:
    class Quick(Hands):
        """The worker that has got the last message answers first."""

        def _wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
            busy = [worker for worker in self.hands if worker.message and not worker.sent]
            for worker in busy[-1:]:
                worker.answer()
            return super()._wait(workers, seconds)

    with Quick(4, 2, None) as grid:
        replies = list(grid.send_and_receive(messages(5, 2, 4, 3)))
    assert [reply.metadata.src_node_id for reply in replies] == [5, 2, 4, 3]
