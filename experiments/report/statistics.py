"""The few statistics that comparisons need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with its 95% confidence interval; the ends are NaN when one pair is all there is."""

    mean: float
    low: float
    high: float
    pairs: int


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Mean of ``ours - theirs`` over pairs, with Student's t interval (pairs share a seed: partition, head, batches).

    Args:
        ours: one value a pair.
        theirs: the baseline's value of each pair.
    """
    from scipy import stats

    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    half = float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def rounds_to(rounds: Sequence[int], accuracy: np.ndarray, target: float) -> int | None:
    """The first evaluated round whose accuracy is at least ``target``, or None."""
    reached = np.flatnonzero(np.asarray(accuracy) >= target)
    return int(rounds[reached[0]]) if len(reached) else None
