"""Arms in numbers: what the page, the tables and the headline say is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.report.arms import MEASURES, Arm, is_centralised, measure_of, passes_a_round
from experiments.report.runs import CLIENT_KEYS, CLIENT_WORST, TUNED_KEYS, TUNED_MEAN, Run
from experiments.report.statistics import Interval, paired_difference, rounds_to, spread
from fps_pretrain.common.errors import UserError

TARGET_SHARES = (0.5, 0.75, 0.9)
"""Default accuracies to reach: these shares of the baseline's best mean accuracy."""


@dataclass(frozen=True)
class FineTuned:
    """How each client's fine-tuned copy of the model does there: means over an arm's seeds.

    Attributes:
        mean: accuracy in [0, 1], averaged over the clients.
        worst_tenth: accuracy, averaged over the tenth of the clients that has the lowest.
        gain: of ``mean`` over the same clients' before, averaged over seeds.
        difference: of ``mean`` to the baseline's, paired by seed; None for the baseline, or if it has none.
    """

    mean: float
    worst_tenth: float
    gain: float
    difference: Interval | None


@dataclass(frozen=True)
class AtClients:
    """How the last model that was evaluated at the clients does there: means over an arm's seeds.

    Attributes:
        mean: accuracy in [0, 1], averaged over the clients.
        spread: its standard deviation over the clients.
        worst_tenth: accuracy, averaged over the tenth of the clients that has the lowest.
        worst_tenth_std: standard deviation of that over seeds, NaN for one seed.
        difference: of ``worst_tenth`` to the baseline's, paired by seed; None for the baseline, or if it has none.
        tuned: what clients make of that model by fine-tuning it; None where they do not.
    """

    mean: float
    spread: float
    worst_tenth: float
    worst_tenth_std: float
    difference: Interval | None
    tuned: FineTuned | None = None


@dataclass(frozen=True)
class Summary:
    """An arm in numbers: accuracies in [0, 1] on the test set, or as ``measure`` says.

    Attributes:
        arm: its label.
        seeds: how many runs.
        final: after the last round, mean over seeds; ``final_std`` the standard deviation, NaN for one seed.
        best: the best round's, mean over seeds; ``best_std`` as above.
        mean_over_rounds: mean over evaluated rounds (round 0 left out) and seeds.
        rounds_to: for each target accuracy the first evaluated round that reaches it, one entry a seed.
        difference: of ``final`` to the baseline's, paired by seed; None for the baseline.
        mean_difference: the same of the mean over the rounds that both were evaluated after (round 0 left out); None,
            too, where a round of one is longer than a round of the other.
        seconds_per_round: mean over rounds and seeds.
        clients: accuracy at the clients, None where it was not measured.
        centralised: trained on one client that holds all data, beside federated arms.
        measure: what the accuracies are, in words, as ``arms.MEASURES``.
    """

    arm: str
    seeds: int
    final: float
    final_std: float
    best: float
    best_std: float
    mean_over_rounds: float
    rounds_to: dict[float, list[int | None]]
    difference: Interval | None
    mean_difference: Interval | None
    seconds_per_round: float
    clients: AtClients | None
    centralised: bool = False
    measure: str = MEASURES["test_accuracy"]

    def has_other_seeds_than(self, baseline: Summary) -> bool:
        """Whether the two are compared over fewer seeds than one of them has."""
        return self.difference is not None and self.difference.pairs < max(self.seeds, baseline.seeds)

    @property
    def intervals(self) -> list[Interval]:
        """The confidence intervals that are shown of the arm."""
        found = [self.difference, self.mean_difference]
        if self.clients:
            found += [self.clients.difference, self.clients.tuned.difference if self.clients.tuned else None]
        return [interval for interval in found if interval is not None and interval.pairs > 1]


def check_targets(targets: Sequence[float]) -> None:
    """Refuse target accuracies outside (0, 1).

    Raises:
        UserError: one is.
    """
    if not all(0 < target < 1 for target in targets):
        raise UserError(f"--targets must lie between 0 and 1, got {' '.join(map(str, targets))}")


def default_targets(arms: Sequence[Arm]) -> list[float]:
    """``TARGET_SHARES`` of the best mean accuracy of the baseline, the first arm, by the measure of all."""
    best = float(arms[0].values(measure_of(arms)).mean(axis=0).max())
    return [round(share * best, 3) for share in TARGET_SHARES]


def summarise(arms: Sequence[Arm], targets: Sequence[float]) -> list[Summary]:
    """One summary an arm; differences are to the first arm, over the seeds that both have."""
    measure = measure_of(arms)
    return [_summary(arm, arms[0], targets, measure) for arm in arms]


def _summary(arm: Arm, baseline: Arm, targets: Sequence[float], measure: str) -> Summary:
    accuracy = arm.values(measure)
    rounds = np.array(arm.rounds_of(measure))
    final, best = accuracy[:, -1], accuracy.max(axis=1)
    mean = accuracy[:, rounds > 0].mean(axis=1) if (rounds > 0).any() else np.full(len(accuracy), np.nan)
    difference = mean_difference = None
    if pairs := _paired(arm, baseline, measure):
        difference = paired_difference(*(values[:, -1] for values in pairs))
        both = np.intersect1d(rounds[rounds > 0], baseline.rounds_of(measure))
        if len(both) and passes_a_round(arm) == passes_a_round(baseline):
            means = (
                values[:, np.isin(one.rounds_of(measure), both)].mean(axis=1)
                for one, values in zip((arm, baseline), pairs, strict=True)
            )
            mean_difference = paired_difference(*means)
    seconds = [row["seconds"] for run in arm.runs for row in run.history if row["round"]]
    return Summary(
        arm=arm.label,
        seeds=len(arm.runs),
        final=float(final.mean()),
        final_std=spread(final),
        best=float(best.mean()),
        best_std=spread(best),
        mean_over_rounds=float(mean.mean()),
        rounds_to={t: [rounds_to(run.rounds_of(measure), run.values(measure), t) for run in arm.runs] for t in targets},
        difference=difference,
        mean_difference=mean_difference,
        seconds_per_round=float(np.mean(seconds)) if seconds else float("nan"),
        clients=_at_clients(arm, baseline),
        centralised=is_centralised(arm.runs[0].config) and not is_centralised(baseline.runs[0].config),
        measure=MEASURES[measure],
    )


def _at_clients(arm: Arm, baseline: Arm) -> AtClients | None:
    if not arm.client_rounds:
        return None
    mean, deviation, worst = (arm.values(key)[:, -1] for key in CLIENT_KEYS)
    difference = None
    if baseline.client_rounds and (pairs := _paired(arm, baseline, CLIENT_WORST)):
        difference = paired_difference(pairs[0][:, -1], pairs[1][:, -1])
    tuned = _fine_tuned(arm, baseline)
    return AtClients(float(mean.mean()), float(deviation.mean()), float(worst.mean()), spread(worst), difference, tuned)


def _fine_tuned(arm: Arm, baseline: Arm) -> FineTuned | None:
    after, _, worst = (arm.values(key)[:, -1] for key in TUNED_KEYS)
    if not np.isfinite(after).all():
        return None
    difference = None
    if baseline.client_rounds and (pairs := _paired(arm, baseline, TUNED_MEAN)):
        mine, theirs = (values[:, -1] for values in pairs)
        difference = paired_difference(mine, theirs) if np.isfinite(theirs).all() else None
    gains = [_gain(run) for run in arm.runs]
    return FineTuned(float(after.mean()), float(worst.mean()), float(np.mean(gains)), difference)


def _gain(run: Run) -> float:
    """What fine-tuning adds, on average over the clients that were measured before and after: some may diverge."""
    both = [(one["fine_tuned_accuracy"], one["accuracy"]) for one in run.at_each_client]
    return float(np.mean([after - before for after, before in both if after is not None and before is not None]))


def _paired(arm: Arm, baseline: Arm, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A quantity of both arms for the seeds that both have; None for the baseline itself or if there are none."""
    shared = [seed for seed in arm.seeds if seed in baseline.seeds]
    if arm is baseline or not shared:
        return None
    mine, theirs = (one.values(key)[[one.seeds.index(seed) for seed in shared]] for one in (arm, baseline))
    return mine, theirs
