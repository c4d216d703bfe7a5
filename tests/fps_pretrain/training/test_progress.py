"""What a person sees of a run's speed: pairs per second, the share of waiting, and where the bar begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fps_pretrain.training import progress


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at ``time.now``."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def logged(callback: Any, trainer: Any) -> dict[str, float]:
    """What a callback logs at the end of a step."""
    values: dict[str, float] = {}
    module: Any = SimpleNamespace(log=lambda name, value, **_: values.update({name: value}))
    callback.on_train_batch_end(trainer, module)
    return values


def test_the_rate_is_that_since_the_last_line_of_the_log(time: SimpleNamespace) -> None:
    trainer: Any = SimpleNamespace(global_step=4, world_size=1)  # resumed
    rate = progress.PairRate(batch_size=8, every=2)
    rate.on_train_start(trainer, trainer)
    found = []
    for step, now in ((5, 101.0), (6, 104.0), (7, 104.5), (8, 105.0)):
        trainer.global_step, time.now = step, now
        found.append(logged(rate, trainer))
    assert found == [{}, {"pairs_per_second": 2 * 8 / 4}, {}, {"pairs_per_second": 2 * 8 / 1}]


def test_the_share_of_waiting_is_that_since_the_last_line_of_the_log(time: SimpleNamespace) -> None:
    waited = SimpleNamespace(now=3.0)
    loader = SimpleNamespace(waiting=SimpleNamespace(seconds=lambda: waited.now))
    trainer: Any = SimpleNamespace(global_step=0, world_size=1, train_dataloader=loader)
    wait = progress.DataWait(every=2)
    wait.on_train_start(trainer, trainer)
    found = []
    for step, now, so_far in ((1, 101.0, 4.0), (2, 104.0, 5.0), (3, 104.5, 5.0), (4, 105.0, 5.25)):
        trainer.global_step, time.now, waited.now = step, now, so_far
        found.append(logged(wait, trainer))
    assert found == [{}, {"data_wait": 2 / 4}, {}, {"data_wait": 0.25 / 1}]


@pytest.mark.parametrize("first", [True, False])
def test_the_bar_begins_where_the_run_stands(first: bool) -> None:
    trainer: Any = SimpleNamespace(global_step=3, is_global_zero=first, callback_metrics={})
    shown = progress.PairProgress(steps=10, batch_size=8)
    shown.on_train_start(trainer, trainer)
    assert (shown.bar is not None) == first
    if shown.bar is not None:
        assert (shown.bar.n, shown.bar.total) == (24, 80)
        shown.on_train_batch_end(trainer, trainer)
        assert shown.bar.n == 32
    shown.teardown(trainer, trainer, "fit")


def test_an_error_ends_the_line_of_the_bar(capfd: pytest.CaptureFixture[str]) -> None:
    """What is said of the error is then on a line of its own."""
    trainer: Any = SimpleNamespace(global_step=0, is_global_zero=True, callback_metrics={})
    shown = progress.PairProgress(steps=10, batch_size=8)
    shown.on_train_start(trainer, trainer)
    assert not capfd.readouterr().err.endswith("\n")
    shown.on_exception(trainer, trainer, RuntimeError("broken"))
    assert capfd.readouterr().err.endswith("\n")
