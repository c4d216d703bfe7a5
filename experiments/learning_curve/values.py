"""The values behind an accuracy-against-pairs curve: their table, their means, and what follows from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import csv_text, read_regular_file, write_text_atomically

RANDOM = "random"

MAX_TABLE = 2**28
"""Bytes of the longest table."""

Measure = Literal["knn", "linear", "federation"]

TITLES = {
    "knn": "nearest neighbours",
    "linear": "linear classifier",
    "federation": "federation, last round",
    "federation_mean": "federation, mean over rounds",
}


@dataclass(frozen=True)
class Value:
    """One measured accuracy in [0, 1].

    ``seed`` is that of the federation, or of random weights, and else -1; ``lr`` that of the federation, and else 0.
    """

    label: str
    pairs: int
    checkpoint: str
    sha256: str
    measure: str
    seed: int
    lr: float
    accuracy: float

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What it is the value of."""
        return self.sha256, self.measure, self.seed, self.lr


def read_table(path: Path) -> list[Value]:
    """The values measured so far; none where there is no table.

    Raises:
        UserError: the file is no such table.
    """
    if not path.exists():
        return []
    lines = None
    try:
        lines = csv.DictReader(io.StringIO(read_regular_file(path, MAX_TABLE).decode(), newline=""))
        values = []
        for row in lines:
            values.append(_value(row))
    except (KeyError, TypeError, ValueError, UnicodeDecodeError, csv.Error) as error:
        where = f", line {lines.line_num}" if lines is not None else ""
        raise UserError(f"{path}{where} is not a table of experiments.curve: choose another --output") from error
    return values


def _value(row: Mapping[str, str]) -> Value:
    value = Value(
        row["label"], int(row["pairs"]), row["checkpoint"], row["sha256"], row["measure"],
        int(row["seed"]), float(row["lr"]), float(row["accuracy"]),
    )  # fmt: skip
    if value.measure not in TITLES or not (0 <= value.accuracy <= 1 and 0 <= value.pairs < 2**63):
        raise ValueError("a measure that there is not, or a number out of range")
    if not 0 <= value.lr < math.inf or None in row:
        raise ValueError("a learning rate out of range, or too many cells")
    return value


def write_table(path: Path, values: Sequence[Value]) -> None:
    """Write all values, one a line."""
    rows = [(v.label, v.pairs, v.checkpoint, v.sha256, v.measure, v.seed, v.lr, repr(v.accuracy)) for v in values]
    write_text_atomically(path, csv_text(Value.__dataclass_fields__, rows))


def at_best_rates(values: Sequence[Value]) -> list[Value]:
    """The values, of federations only those at the learning rate with the encoder's best mean over seeds at the end.

    Rates are compared over the seeds that all of the encoder's have, if there are any. The mean over the rounds is that
    of the same runs, at which another rate may do better.
    """
    ends: dict[str, dict[float, dict[int, float]]] = {}
    for value in values:
        if value.measure == "federation":
            ends.setdefault(value.sha256, {}).setdefault(value.lr, {})[value.seed] = value.accuracy
    best = {sha256: _best_rate(rates) for sha256, rates in ends.items()}
    return [value for value in values if not value.lr or value.lr == best.get(value.sha256)]


def _best_rate(rates: Mapping[float, Mapping[int, float]]) -> float:
    """The learning rate with the highest mean accuracy, of equals the lowest; accuracies by rate and seed."""
    common = set.intersection(*map(set, rates.values()))
    return max(sorted(rates), key=lambda lr: np.mean([a for s, a in rates[lr].items() if s in common or not common]))


def means(values: Sequence[Value], label: str, measure: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Budgets in pairs, and the mean, lowest and highest accuracy at each, over checkpoints and seeds."""
    mine: dict[int, list[float]] = {}
    for value in values:
        if value.label == label and value.measure == measure:
            mine.setdefault(value.pairs, []).append(value.accuracy)
    budgets = sorted(mine)
    stacked = [np.array(mine[budget]) for budget in budgets]
    return (
        np.array(budgets),
        np.array([a.mean() for a in stacked]),
        np.array([a.min() for a in stacked]),
        np.array([a.max() for a in stacked]),
    )


def crossing(budgets: np.ndarray, accuracies: np.ndarray, baseline: float) -> float | None:
    """The number of pairs from which on a curve stays above ``baseline``, or None if it ends below.

    Between two budgets the curve is taken as straight over the logarithm of pairs; where it lies above from its first
    budget on, that is the answer.
    """
    below = np.flatnonzero(np.asarray(accuracies) <= baseline)
    if not len(below):
        return float(budgets[0])
    last = below[-1]
    if last == len(budgets) - 1:
        return None
    share = (baseline - accuracies[last]) / (accuracies[last + 1] - accuracies[last])
    low, high = math.log(max(1, budgets[last])), math.log(budgets[last + 1])
    return math.exp(low + share * (high - low))


def summary(values: Sequence[Value]) -> Iterator[str]:
    """A line for each curve and measure: where its mean ends, and from how many pairs on it leads random weights."""
    for measure, title in TITLES.items():
        _, baseline, _, _ = means(values, RANDOM, measure)
        if not len(baseline):
            continue
        yield f"{title}: random weights {baseline[0]:.1%}"
        for label in sorted({value.label for value in values} - {RANDOM}):
            budgets, middle, _, _ = means(values, label, measure)
            if not len(budgets):
                continue
            where = crossing(budgets, middle, float(baseline[0]))
            verdict = "below random weights"
            if where is not None:  # two digits: single runs of a recipe differ by points
                begin = "the first" if where == budgets[0] else f"about {float(f'{where:.2g}'):,.0f} pairs"
                verdict = f"above random weights from {begin} on"
            yield f"  {label}: {middle[-1]:.1%} after {budgets[-1]:,} pairs, on average {verdict}"
