"""The values behind an accuracy-against-pairs curve: their table, their means, and what follows from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
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


def _beside_random(values: Sequence[Value], label: str, measure: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Budgets, the curve's mean lead over random weights at each, and a word on the seeds if some were left out.

    Federations are compared over the seeds that both have, since a seed is also a partition; a budget without one has
    no lead. Frozen features of a checkpoint have no seed: they stand beside all random weights.
    """
    random = {value.seed: value.accuracy for value in values if value.label == RANDOM and value.measure == measure}
    mine: dict[int, list[Value]] = {}
    for value in values:
        if value.label == label and value.measure == measure:
            mine.setdefault(value.pairs, []).append(value)
    if not any(value.lr for at_budget in mine.values() for value in at_budget):
        budgets, middle, _, _ = means(values, label, measure)
        return budgets, middle - fmean(random.values()), ""
    leads, counts = {}, []
    for budget in sorted(mine):
        paired = [value for value in mine[budget] if value.seed in random]
        counts.append(len({value.seed for value in paired}))
        if paired:
            leads[budget] = fmean(v.accuracy for v in paired) - fmean(random[v.seed] for v in paired)
    every = len(random.keys() | {value.seed for at_budget in mine.values() for value in at_budget})
    fewest, most = min(counts), max(counts)
    number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    word = f", compared over {number} of {every} seeds" if fewest < every else ""
    return np.array(list(leads)), np.array(list(leads.values())), word


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
            end = f"  {label}: {middle[-1]:.1%} after {budgets[-1]:,} pairs"
            compared, leads, word = _beside_random(values, label, measure)
            if not len(compared):
                yield f"{end}; random weights have none of its seeds"
                continue
            where = crossing(compared, leads, 0.0)
            verdict = "below random weights"
            if where is not None:  # two digits: single runs of a recipe differ by points
                begin = "the first" if where == compared[0] else f"about {float(f'{where:.2g}'):,.0f} pairs"
                verdict = f"above random weights from {begin} on"
            yield f"{end}, on average {verdict}{word}"
