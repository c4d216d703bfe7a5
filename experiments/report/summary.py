"""Arms in numbers: what the page, the tables and the headline say is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.report.arms import Arm, is_centralised
from experiments.report.runs import CLIENT_KEYS
from experiments.report.statistics import Interval, paired_difference, rounds_to, spread
from fps_pretrain.common.errors import UserError

TARGET_SHARES = (0.5, 0.75, 0.9)
"""Default accuracies to reach: these shares of the baseline's best mean accuracy."""


@dataclass(frozen=True)
class AtClients:
    """How the last model that was evaluated at the clients does there: means over an arm's seeds.

    Attributes:
        mean: accuracy in [0, 1], averaged over the clients.
        spread: its standard deviation over the clients.
        worst_tenth: accuracy, averaged over the tenth of the clients that has the lowest.
        worst_tenth_std: standard deviation of that over seeds, NaN for one seed.
        difference: of ``worst_tenth`` to the baseline's, paired by seed; None for the baseline, or if it has none.
    """

    mean: float
    spread: float
    worst_tenth: float
    worst_tenth_std: float
    difference: Interval | None


@dataclass(frozen=True)
class Summary:
    """An arm in numbers: accuracies in [0, 1] on the test set.

    Attributes:
        arm: its label.
        seeds: how many runs.
        final: after the last round, mean over seeds; ``final_std`` the standard deviation, NaN for one seed.
        best: the best round's, mean over seeds; ``best_std`` as above.
        mean_over_rounds: mean over evaluated rounds (round 0 left out) and seeds.
        rounds_to: for each target accuracy the first evaluated round that reaches it, one entry a seed.
        difference: of ``final`` to the baseline's, paired by seed; None for the baseline.
        mean_difference: of ``mean_over_rounds``, likewise.
        seconds_per_round: mean over rounds and seeds.
        clients: accuracy at the clients, None where it was not measured.
        centralised: trained on one client that holds all data, beside federated arms.
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

    @property
    def intervals(self) -> list[Interval]:
        """The confidence intervals that are shown of the arm."""
        found = [self.difference, self.mean_difference, self.clients.difference if self.clients else None]
        return [interval for interval in found if interval is not None and interval.pairs > 1]


def check_targets(targets: Sequence[float]) -> None:
    """Refuse target accuracies outside (0, 1).

    Raises:
        UserError: one is.
    """
    if not all(0 < target < 1 for target in targets):
        raise UserError(f"--targets must lie between 0 and 1, got {' '.join(map(str, targets))}")


def default_targets(baseline: Arm) -> list[float]:
    """``TARGET_SHARES`` of the baseline's best mean accuracy."""
    best = float(baseline.values("test_accuracy").mean(axis=0).max())
    return [round(share * best, 3) for share in TARGET_SHARES]


def summarise(arms: Sequence[Arm], targets: Sequence[float]) -> list[Summary]:
    """One summary an arm; differences are to the first arm, over the seeds that both have."""
    return [_summary(arm, arms[0], targets) for arm in arms]


def _summary(arm: Arm, baseline: Arm, targets: Sequence[float]) -> Summary:
    accuracy = arm.values("test_accuracy")
    final, best, mean = accuracy[:, -1], accuracy.max(axis=1), accuracy[:, 1:].mean(axis=1)
    difference = mean_difference = None
    if pairs := _paired(arm, baseline, "test_accuracy"):
        mine, theirs = pairs
        difference = paired_difference(mine[:, -1], theirs[:, -1])
        mean_difference = paired_difference(mine[:, 1:].mean(axis=1), theirs[:, 1:].mean(axis=1))
    seconds = [row["seconds"] for run in arm.runs for row in run.history if row["round"]]
    return Summary(
        arm=arm.label,
        seeds=len(arm.runs),
        final=float(final.mean()),
        final_std=spread(final),
        best=float(best.mean()),
        best_std=spread(best),
        mean_over_rounds=float(mean.mean()),
        rounds_to={t: [rounds_to(run.rounds, run.values("test_accuracy"), t) for run in arm.runs] for t in targets},
        difference=difference,
        mean_difference=mean_difference,
        seconds_per_round=float(np.mean(seconds)) if seconds else float("nan"),
        clients=_at_clients(arm, baseline),
        centralised=is_centralised(arm.runs[0].config) and not is_centralised(baseline.runs[0].config),
    )


def _at_clients(arm: Arm, baseline: Arm) -> AtClients | None:
    if not arm.client_rounds:
        return None
    mean, deviation, worst = (arm.values(key)[:, -1] for key in CLIENT_KEYS)
    difference = None
    if baseline.client_rounds and (pairs := _paired(arm, baseline, "client_accuracy_worst_tenth")):
        difference = paired_difference(pairs[0][:, -1], pairs[1][:, -1])
    return AtClients(float(mean.mean()), float(deviation.mean()), float(worst.mean()), spread(worst), difference)


def _paired(arm: Arm, baseline: Arm, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A quantity of both arms for the seeds that both have; None for the baseline itself or if there are none."""
    shared = [seed for seed in arm.seeds if seed in baseline.seeds]
    if arm is baseline or not shared:
        return None
    mine, theirs = (one.values(key)[[one.seeds.index(seed) for seed in shared]] for one in (arm, baseline))
    return mine, theirs
