"""A run's messages: a progress bar on a terminal, lines elsewhere, and everything in its log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError

log = logging.getLogger("federated")

BUSY = 0.5
"""Share of the cores that other programs use on a machine that counts as busy."""


def machine_is_busy() -> bool:
    """Whether other programs use more than ``BUSY`` of the cores right now; takes 0.3 s."""
    return cores_used_by_others() > BUSY * (psutil.cpu_count() or 1)


def cores_used_by_others(seconds: float = 0.3) -> float:
    """How many CPU cores all programs but this process and its children use on average in the next ``seconds``."""
    before = _own_cpu_seconds()
    busy = psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1)
    return max(0.0, busy - (_own_cpu_seconds() - before) / seconds)


def _own_cpu_seconds() -> float:
    """CPU time that this process and its children have used so far."""
    total, this = 0.0, psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def console(quiet: bool, verbose: bool = False) -> Iterator[None]:
    """Send messages to stderr, none if ``quiet``; with ``verbose`` also those that are for the log file only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.CRITICAL if quiet else logging.DEBUG if verbose else logging.INFO)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append messages to a file, among them Flower's, which go nowhere else.

    Raises:
        UserError: something else than a file is there, such as a FIFO, which would never take a line.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file: remove it, and the same command goes on")
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    flower = logging.getLogger("flwr")
    handlers, propagate = flower.handlers, flower.propagate
    flower.handlers, flower.propagate = [handler], False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        flower.handlers, flower.propagate = handlers, propagate
        handler.close()


class RoundBar:
    """The rounds of a run: a tqdm bar on a terminal, one line for each evaluated round elsewhere.

    Args:
        rounds: number of rounds of the run.
        done: rounds completed before.
        quiet: show nothing; the log file still gets its lines.
        head: whose head the model has on the test images, for the lines; see ``evaluated_head``.
    """

    def __init__(self, rounds: int, done: int, quiet: bool, head: str = "") -> None:
        shown = sys.stderr.isatty() and not quiet
        self._rounds = rounds
        self._level = logging.DEBUG if shown else logging.INFO
        self._evaluation = ""
        self._head = head
        self._left = rounds - done
        self._seconds: list[float] = []
        self._bar = tqdm(total=rounds, initial=done, unit="round", disable=not shown, dynamic_ncols=True)

    def __enter__(self) -> RoundBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def client(self, done: int, of: int) -> None:
        """Show how many clients of the current round have answered."""
        self._bar.set_postfix_str(", ".join(filter(None, (self._evaluation, f"client {done}/{of}"))))

    def round(self, row: dict[str, Any]) -> None:
        """Show a completed round, a row of the history."""
        if row["round"]:
            self._left = self._rounds - row["round"]
            self._seconds.append(row["seconds"])
        if row["test_accuracy"] is not None:
            self._evaluation = f"test accuracy{self._head} {row['test_accuracy']:.4f}, loss {row['test_loss']:.4f}"
            training = f", training loss {row['train_loss']:.4f}" if row["train_loss"] is not None else ""
            if row["val_accuracy"] is not None and not self._head:
                training += f", validation accuracy {row['val_accuracy']:.4f}"
            if "client_accuracy_mean" in row:
                mean, worst = row["client_accuracy_mean"], row["client_accuracy_worst_tenth"]
                training += f", client accuracy {mean:.4f} (worst tenth {worst:.4f})"
            if "fine_tuned_accuracy_mean" in row:
                mean, worst = row["fine_tuned_accuracy_mean"], row["fine_tuned_accuracy_worst_tenth"]
                training += f", fine-tuned {mean:.4f} (worst tenth {worst:.4f})"
            if "dp_epsilon" in row:
                training += f", epsilon {row['dp_epsilon']:.3g}"
            log.log(
                self._level,
                f"round {row['round']}/{self._rounds}: {self._evaluation}{training}, {row['seconds']:.1f} s"
                f"{self._time_left()}",
            )
        self._bar.set_postfix_str(self._evaluation)
        if row["round"]:
            self._bar.update()

    def _time_left(self) -> str:
        """The remaining time, from the mean duration of this process's rounds."""
        if not self._seconds or not self._left:
            return ""
        return f", {duration(self._left * sum(self._seconds) / len(self._seconds))} left"


def evaluated_head(config: RunConfig) -> str:
    """What to say behind "test accuracy": with ``--personal head`` no trained head belongs to the test images."""
    return " (under the head the run began with)" if config.personal == "head" else ""


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
