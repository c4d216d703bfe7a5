"""When a run saves its state, and what signals make of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fps_pretrain.training import resume as state


class Clock:
    """The time of a test, and a trainer that notes when a state is saved."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.saved: list[float] = []
        self.trainer: Any = SimpleNamespace(
            world_size=1,
            loggers=[],
            global_step=0,
            should_stop=False,
            save_checkpoint=lambda path: self.saved.append(self.now),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )

    def monotonic(self) -> float:
        return self.now

    def step(self, keep: state.KeepState, now: float) -> None:
        self.now = now
        self.trainer.global_step += 1
        keep.on_train_batch_end(self.trainer, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(state, "time", made)
    return made


@pytest.fixture
def keep(clock: Clock, tmp_path: Path) -> Iterator[state.KeepState]:
    """One that training has begun with."""
    made = state.KeepState(tmp_path, interval=10)
    made.on_train_start(clock.trainer, None)
    yield made
    made.teardown(clock.trainer, None, "fit")


def test_a_state_is_saved_every_so_many_seconds(clock: Clock, keep: state.KeepState) -> None:
    for now in (1_000, 1_009.9, 1_010, 1_015, 1_019.9, 1_021, 1_030.9, 1_031):
        clock.step(keep, now)
    assert clock.saved == [1_010, 1_021, 1_031]
    assert not keep.stopped


def test_a_second_signal_stops_at_once(clock: Clock, keep: state.KeepState) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    clock.step(keep, 1_001)
    assert clock.saved == [1_001]
    assert keep.stopped
    assert clock.trainer.should_stop
    clock.step(keep, 1_050)  # Lightning may finish an epoch before it stops
    assert clock.saved == [1_001]


def test_slurms_signal_saves_once_and_goes_on_to_lightnings_handler(clock: Clock, tmp_path: Path) -> None:
    handled: list[tuple[int, int]] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: handled.append((number, len(clock.saved))))
    keep = state.KeepState(tmp_path, interval=10)
    try:
        keep.on_train_start(clock.trainer, None)
        signal.raise_signal(signal.SIGUSR1)
        assert not handled  # not in mid-step
        for now in (1_001, 1_002):
            clock.step(keep, now)
        keep.teardown(clock.trainer, None, "fit")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert clock.saved == [1_001]
    assert handled == [(signal.SIGUSR1, 1)]  # with the state on disk
    assert not keep.stopped


def test_several_devices_do_what_rank_0_decides_and_in_the_same_step(
    clock: Clock, keep: state.KeepState, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def broadcast(decision: torch.Tensor, src: int) -> None:
        asked.append(clock.trainer.global_step)
        decision.fill_(signal.SIGTERM if len(asked) == 2 else 0)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    clock.trainer.world_size = 2
    for _ in range(20):
        clock.step(keep, clock.now + 100)
    assert asked == [state.AGREE_EVERY, 2 * state.AGREE_EVERY]
    assert clock.saved == [1_000 + 100 * 2 * state.AGREE_EVERY]
    assert keep.stopped
