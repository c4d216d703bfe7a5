import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.statistics import paired_difference, rounds_to


def test_paired_difference_is_scipys_paired_t_interval():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 0.1, 6), rng.normal(0.4, 0.1, 6)
    interval = paired_difference(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert interval.mean == pytest.approx((ours - theirs).mean())
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.pairs == 6


def test_one_pair_has_no_interval():
    interval = paired_difference(np.array([0.5]), np.array([0.4]))
    assert interval.mean == pytest.approx(0.1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_rounds_to_is_the_first_evaluated_round():
    accuracy = np.array([0.1, np.nan, 0.5, 0.4, 0.6])
    assert rounds_to([0, 5, 10, 15, 20], accuracy, 0.5) == 10
    assert rounds_to([0, 5, 10, 15, 20], accuracy, 0.55) == 20
    assert rounds_to([0, 5, 10, 15, 20], accuracy, 0.7) is None
