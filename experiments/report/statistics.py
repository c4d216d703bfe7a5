"""The few statistics that comparisons need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95

FEW_SEEDS = 3
"""With fewer paired seeds an interval says little: Student's factor is 12.7 for two."""


class Interval(NamedTuple):
    """A mean with its 95% confidence interval; the ends are NaN where there is only one pair."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def says_nothing(self) -> bool:
        """Whether 0 lies inside: the arms cannot be told apart."""
        return self.pairs < 2 or not (self.low > 0 or self.high < 0)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Mean of ``ours - theirs`` over pairs, with Student's t interval.

    Pairs share a seed, and with it partition, head and batches.

    Args:
        ours: one value a pair ``(pairs,)``.
        theirs: the baseline's value of each pair ``(pairs,)``.
    """
    from scipy import stats

    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * differences.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def crossed_difference(differences: np.ndarray) -> Interval:
    """Mean difference over encoders and seeds, with a 95% interval that counts both as drawn at random.

    The model is that of two crossed random effects without replication. An effect's mean square that is smaller than
    the residual's is taken as that large, which widens the interval, and the degrees of freedom are Satterthwaite's
    (Biometrics Bulletin, 1946).

    Args:
        differences: each encoder's difference to the baseline, with each seed ``(encoders, seeds)``; at least two of
            both.
    """
    from scipy import stats

    encoders, seeds = differences.shape
    mean = differences.mean()
    rows, columns = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - rows[:, None] - columns + mean
    freedom = (encoders - 1) * (seeds - 1)
    of_rest = float((rest**2).sum() / freedom)
    of_encoders = max(of_rest, float(seeds * rows.var(ddof=1)))
    of_seeds = max(of_rest, float(encoders * columns.var(ddof=1)))
    variance = of_encoders + of_seeds - of_rest
    shares = of_encoders**2 / (encoders - 1) + of_seeds**2 / (seeds - 1) + of_rest**2 / freedom
    half = 0.0
    if variance > 0:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, variance**2 / shares) * np.sqrt(variance / differences.size)
    return Interval(float(mean), float(mean - half), float(mean + half), differences.size)


def spread(values: np.ndarray) -> float:
    """The sample standard deviation of ``values``; NaN for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def rounds_to(rounds: Sequence[int], accuracy: np.ndarray, target: float) -> int | None:
    """The first evaluated round whose accuracy is at least ``target``, or None.

    Args:
        rounds: the evaluated rounds.
        accuracy: after each of them ``(rounds,)``; NaN where it is missing.
        target: in [0, 1].
    """
    reached = np.flatnonzero(np.asarray(accuracy) >= target)
    return int(rounds[reached[0]]) if len(reached) else None


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage with one decimal; a dash for NaN."""
    return "–" if value != value else f"{100 * value:.1f}%"


def signed(difference: float) -> str:
    """A difference of shares in percentage points with its sign; one that rounds to nothing is 0.0."""
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def apart(difference: float) -> str:
    """A difference of shares in words: ``6.5 points above``, before the name of what it is compared with."""
    return f"{abs(100 * difference):.1f} points {'below' if difference < 0 else 'above'}"


def points(interval: Interval | None, unit: str = "") -> str:
    """A difference of shares in percentage points, with its interval where there is one; a dash for None.

    Args:
        interval: the difference.
        unit: what follows the difference, such as " points".
    """
    if interval is None:
        return "–"
    mean, low, high = map(signed, interval[:3])
    return f"{mean}{unit} [{low}, {high}]" if interval.pairs > 1 else f"{mean}{unit}"
