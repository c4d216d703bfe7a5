import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.headline import bracket
from experiments.report.statistics import Interval, crossed_difference, paired_difference, rounds_to, signed


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


def test_an_interval_that_is_no_number_says_nothing():
    assert Interval(float("nan"), float("nan"), float("nan"), 3).says_nothing
    assert not Interval(0.1, 0.05, 0.15, 3).says_nothing
    assert bracket(Interval(-0.05, -0.1, -0.0001, 3)) == "[-10.0, +0.0]"


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert [signed(value) for value in (0.0126, -0.0126, 0.0004, -0.0004, 0.0)] == ["+1.3", "-1.3", "0.0", "0.0", "0.0"]


def test_rounds_to_is_the_first_evaluated_round():
    accuracy = np.array([0.1, np.nan, 0.5, 0.4, 0.6])
    assert rounds_to([0, 5, 10, 15, 20], accuracy, 0.5) == 10
    assert rounds_to([0, 5, 10, 15, 20], accuracy, 0.55) == 20
    assert rounds_to([0, 5, 10, 15, 20], accuracy, 0.7) is None


def test_the_interval_over_encoders_and_seeds_covers_the_methods_mean():
    rng = np.random.default_rng(0)
    covered = of_seeds_alone = 0
    for _ in range(1000):
        values = rng.normal(0.1, 0.03, (4, 1)) + rng.normal(0, 0.02, (1, 3)) + rng.normal(0, 0.01, (4, 3))
        interval = crossed_difference(values)
        assert interval.mean == pytest.approx(values.mean())
        covered += interval.low <= 0.1 <= interval.high
        alone = paired_difference(values[0], np.zeros(3))
        of_seeds_alone += alone.low <= 0.1 <= alone.high
    assert 930 <= covered <= 985
    assert of_seeds_alone < 900


def test_effects_below_the_residual_count_as_that_large():
    """Neither encoders nor seeds differ on average: variance 4 over 4 values, 4^2 / (3 x 4^2) degrees of freedom."""
    interval = crossed_difference(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert (interval.mean, interval.high) == pytest.approx((0, stats.t.ppf(0.975, 1 / 3)))


def test_encoders_that_differ_alike_with_every_seed_are_all_that_counts():
    by_encoder = np.array([0.1, 0.3, 0.2])
    interval = crossed_difference(np.repeat(by_encoder[:, None], 5, axis=1))
    expected = paired_difference(by_encoder, np.zeros(3))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_encoders_and_seeds_count_alike():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.04, (1, 3)) + rng.normal(0, 0.01, (4, 3))
    assert crossed_difference(values) == pytest.approx(crossed_difference(values.T))
    by_seed = np.array([0.1, 0.3, 0.2])
    interval, expected = crossed_difference(np.tile(by_seed, (5, 1))), paired_difference(by_seed, np.zeros(3))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
