"""What a run says: a bar of rounds on a terminal, lines elsewhere, and everything in its log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger("federated")


@contextmanager
def console(quiet: bool, verbose: bool = False) -> Iterator[None]:
    """Send what the run says to stderr, unless ``quiet``; with ``verbose`` what else goes to the log, too."""
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
    """Append what the run says to a file, and what Flower says to the file alone."""
    handler = logging.FileHandler(path)
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
    """

    def __init__(self, rounds: int, done: int, quiet: bool) -> None:
        shown = sys.stderr.isatty() and not quiet
        self._rounds = rounds
        self._level = logging.DEBUG if shown else logging.INFO
        self._evaluation = ""
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
            self._evaluation = f"test accuracy {row['test_accuracy']:.4f}, loss {row['test_loss']:.4f}"
            training = f", training loss {row['train_loss']:.4f}" if row["train_loss"] is not None else ""
            if row["val_accuracy"] is not None:
                training += f", validation accuracy {row['val_accuracy']:.4f}"
            if "client_accuracy_mean" in row:
                mean, worst = row["client_accuracy_mean"], row["client_accuracy_worst_tenth"]
                training += f", at the clients {mean:.4f}, at the worst tenth {worst:.4f}"
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
        """How long the rounds that are left will take if they take as long as those of this process on average."""
        if not self._seconds or not self._left:
            return ""
        return f", {duration(self._left * sum(self._seconds) / len(self._seconds))} left"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
