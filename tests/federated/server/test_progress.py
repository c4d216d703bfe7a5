"""How long a run still takes, and what counts as a busy machine."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from federated.config.run import RunConfig
from federated.server.output import progress
from federated.server.run import run

SPIN = "while True: pass"
Tiny = Callable[..., RunConfig]


class Machine:
    """Stands in for psutil on a machine of four cores, where ``own`` and ``others`` are the cores that are used."""

    Error = psutil.Error

    def __init__(self, own: float, others: float) -> None:
        self.own, self.others, self.seconds = own, others, 0.0

    def cpu_count(self) -> int:
        return 4

    def cpu_percent(self, seconds: float) -> float:
        self.seconds += seconds
        return 100 * (self.own + self.others) / 4

    def Process(self) -> Machine:
        return self

    def children(self, recursive: bool) -> list[Machine]:
        return [self]  # this process and its child do half of the work each

    def cpu_times(self) -> Machine:
        return self

    @property
    def user(self) -> float:
        return self.own * self.seconds / 2

    system = 0.0


def test_own_load_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "psutil", Machine(own=3.0, others=0.5))
    assert progress.cores_used_by_others() == pytest.approx(0.5)
    assert not progress.machine_is_busy()
    monkeypatch.setattr(progress, "psutil", Machine(own=0.0, others=2.5))
    assert progress.machine_is_busy()


@contextmanager
def spinning(in_another_session: bool) -> Iterator[None]:
    """A program that keeps a core busy: this process's child, or nobody's."""
    command = [sys.executable, "-c", SPIN]
    if not in_another_session:
        child = subprocess.Popen(command)
        try:
            yield
        finally:
            child.kill()
            child.wait()
        return
    start = f"import subprocess as s; print(s.Popen({command!r}, stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    process = psutil.Process(int(subprocess.run([sys.executable, "-c", start], capture_output=True, check=True).stdout))
    try:
        yield
    finally:
        process.kill()


def test_processes_are_told_apart() -> None:
    """Shares of a core, since other programs may run beside this test."""
    with spinning(in_another_session=False):
        before, end = progress._own_cpu_seconds(), time.monotonic() + 60
        while progress._own_cpu_seconds() - before <= 0.2:
            assert time.monotonic() < end, "the child's work is not counted as this process's own"
            time.sleep(0.05)
    with spinning(in_another_session=True):
        time.sleep(0.2)
        before = progress._own_cpu_seconds()
        used = progress.cores_used_by_others(1.0)
        assert progress._own_cpu_seconds() - before < 0.2
    assert used > 0.2


def test_the_time_that_is_left_follows_from_this_processs_own_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"test_accuracy": 0.5, "test_loss": 1.0, "train_loss": None, "val_accuracy": None}
    with progress.console(quiet=False), progress.RoundBar(6, 1, quiet=False) as bar:
        for number, seconds in ((0, 1000.0), (2, 10.0), (3, 40.0), (6, 10.0)):
            bar.round({**row, "round": number, "seconds": seconds})
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" s")[2] for line in lines] == ["", ", 40 s left", ", 75 s left", ""]


def test_logging_is_as_it_was_once_a_run_is_over(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("federated", "flwr")

    def settings() -> list[object]:
        return [(list(log.handlers), log.level, log.propagate) for log in map(logging.getLogger, names)]

    monkeypatch.setattr(progress.log, "level", logging.WARNING)
    monkeypatch.setattr(progress.log, "propagate", True)
    before = settings()
    run(tiny(rounds=1), quiet=True)
    assert settings() == before
    monkeypatch.setattr("federated.server.run.Clients.find", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny(rounds=2), quiet=True)
    assert settings() == before


def test_durations() -> None:
    shown = {0.4: "0 s", 119.4: "119 s", 120: "2 min", 7199: "120 min", 7200: "2.0 h", 9000: "2.5 h"}
    assert {seconds: progress.duration(seconds) for seconds in shown} == shown


@pytest.mark.parametrize(("others", "threads", "said"), [(0.0, 2, False), (4.0, 1, False), (4.0, 2, True)])
def test_a_run_says_that_the_machine_is_busy_with_other_programs(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    others: float,
    threads: int,
    said: bool,
) -> None:
    """A comparison runs its arms one after the other: the load of the arm before is not that of other programs."""
    monkeypatch.setattr(progress, "psutil", Machine(own=4.0 - others, others=others))
    monkeypatch.setattr("os.getloadavg", lambda: (4.0, 4.0, 4.0))
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    run(tiny(rounds=1, threads=None, workers=0, device="cpu"))
    assert ("this machine is busy" in capsys.readouterr().err) == said
