"""Arms in numbers, on histories whose summary can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.report.arms import group
from experiments.report.statistics import paired_difference
from experiments.report.summary import default_targets, summarise
from federated.config.run import RunConfig
from tests.experiments.runs import write_run

BASE = RunConfig(rounds=2, clients=4, partition="iid", local_epochs=1)


def arms(tmp_path, accuracies, **fields):
    """Arms by initialisation, each with the accuracies of its seeds by round."""
    runs = [
        write_run(tmp_path / f"{init}-{seed}", replace(BASE, init=init, seed=seed, **fields), values)
        for init, seeds in accuracies.items()
        for seed, values in seeds.items()
    ]
    return group(runs)


def test_an_arm_in_numbers(tmp_path):
    found = arms(
        tmp_path,
        {
            "random": {0: [0.1, 0.2, 0.4], 1: [0.1, 0.3, 0.2]},
            "x.pt": {0: [0.9, 0.5, 0.6], 1: [0.7, 0.3, 0.6]},
        },
    )
    for run in found[1].runs:
        run.history[0]["seconds"] = 100.0  # before the first round an evaluation takes long
        run.history[2]["seconds"] = 4.0
    random, warm = summarise(found, (0.3, 0.8))
    assert (random.final, random.best, random.mean_over_rounds) == pytest.approx((0.3, 0.35, 0.275))
    assert (random.final_std, random.best_std) == pytest.approx((0.02**0.5, 0.005**0.5))
    assert random.rounds_to == {0.3: [2, 1], 0.8: [None, None]}
    assert (random.difference, random.mean_difference) == (None, None)
    assert (warm.final, warm.best, warm.mean_over_rounds) == pytest.approx((0.6, 0.8, 0.5))
    assert warm.seconds_per_round == 3.0
    assert warm.difference == pytest.approx(paired_difference(np.array([0.6, 0.6]), np.array([0.4, 0.2])))
    # Round 0 is no part of the mean over the rounds.
    assert warm.mean_difference == pytest.approx(paired_difference(np.array([0.55, 0.45]), np.array([0.3, 0.25])))


def test_arms_are_paired_by_seed_and_not_by_place(tmp_path):
    found = arms(
        tmp_path,
        {"random": {0: [0.1, 0.2, 0.3], 1: [0.1, 0.2, 0.5]}, "x.pt": {1: [0.1, 0.2, 0.6], 2: [0.1, 0.2, 0.9]}},
    )
    difference = summarise(found, ())[1].difference
    assert (difference.mean, difference.pairs) == (pytest.approx(0.1), 1)


def test_default_targets_are_shares_of_the_best_of_the_mean_curve(tmp_path):
    """Single runs are better than the mean is in any round."""
    found = arms(tmp_path, {"random": {0: [0.1, 0.8, 0.2], 1: [0.1, 0.2, 0.6]}, "x.pt": {0: [0.1, 0.9, 0.9]}})
    assert default_targets(found) == [0.25, 0.375, 0.45]


def test_what_fine_tuning_gains_is_measured_over_clients_with_both(tmp_path):
    config = replace(BASE, per_client_every=2, fine_tune_epochs=1)
    run = write_run(tmp_path / "run", config, [0.1, 0.2, 0.3], {2: (0.3, 0.0, 0.2)}, tuned={2: (0.6, 0.0, 0.4)})
    last = run.history[-1]
    last["client_accuracies"], last["fine_tuned_accuracies"] = [0.2, 0.4, None, 0.3], [0.5, None, 0.9, 0.4]
    (only,) = summarise(group([run]), ())
    assert only.clients is not None
    assert only.clients.tuned is not None
    assert only.clients.tuned.gain == pytest.approx((0.3 + 0.1) / 2)


def test_worst_tenths_are_compared_and_not_the_means_at_the_clients(tmp_path):
    runs = []
    for init, mean, worst in (("random", 0.4, (0.20, 0.30)), ("x.pt", 0.9, (0.26, 0.34))):
        for seed, low in enumerate(worst):
            config = replace(BASE, per_client_every=2, init=init, seed=seed)
            runs.append(write_run(tmp_path / f"{len(runs)}", config, [0.1, 0.2, 0.3], {2: (mean, 0.1, low)}))
    random, warm = summarise(group(runs), ())
    assert random.clients.difference is None
    assert (warm.clients.mean, warm.clients.spread, warm.clients.worst_tenth) == pytest.approx((0.9, 0.1, 0.3))
    assert warm.clients.difference == pytest.approx(paired_difference(np.array([0.26, 0.34]), np.array([0.2, 0.3])))


def test_centralised_arms_among_themselves_are_arms_as_any(tmp_path):
    federated = {"random": {0: [0.1, 0.2, 0.3]}, "x.pt": {0: [0.1, 0.2, 0.4]}}
    alone = arms(tmp_path / "alone", federated, clients=1)
    assert [summary.centralised for summary in summarise(alone, ())] == [False, False]
    both = [*arms(tmp_path / "both", federated), *alone]
    assert [summary.centralised for summary in summarise(both, ())] == [False, False, True, True]
