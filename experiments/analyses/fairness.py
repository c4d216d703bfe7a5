"""Does everybody gain? ``python -m experiments.analyses.fairness RUN...``.

How the last global model does at each client, on test examples like the client's own: mean, standard deviation and the
worst tenth of the clients; with ``--fine-tune-epochs`` also how each client's fine-tuned copy does. Runs need
``--per-client-every``, ``--personal head`` or ``--fine-tune-epochs``; those that differ in their seed only form an arm.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import output
from experiments.report.arms import Arm, group
from experiments.report.comparable import Difference, check
from experiments.report.runs import CLIENT_MEAN, CLIENT_WORST, OfRuns, Run, RunFolders, read_run
from experiments.report.statistics import Interval, apart, paired_difference, signed
from fps_pretrain.common import cli, plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "experiments.analyses.fairness"


@dataclass(frozen=True)
class FairnessConfig(OfRuns):
    """Accuracy of the last global model at each client."""

    runs: RunFolders
    """Run folders; the first one's arm is the baseline."""
    allow_different: tuple[Difference, ...] = ()
    """Take runs all the same that differ in these."""
    output: Path = output.FOLDER
    """Folder for fairness.csv, .txt and .png."""


def accuracies(run: Run) -> np.ndarray:
    """The accuracy in [0, 1] at each client after the last round that measured it ``(clients,)``; NaN: no answer.

    Raises:
        UserError: no round did.
    """
    if found := run.at_each_client:
        return np.array([np.nan if one["accuracy"] is None else one["accuracy"] for one in found], dtype=float)
    raise UserError(f"{run.folder} was not evaluated at its clients: run it with --per-client-every")


def fine_tuned(run: Run) -> np.ndarray:
    """The same of the clients' fine-tuned copies; NaN where there are none."""
    values = [one["fine_tuned_accuracy"] for one in run.at_each_client]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _against(arm: Arm, baseline: Arm, key: str) -> Interval | None:
    """What an arm's runs recorded last less the baseline's, by seed; None for itself or fewer than two common seeds."""
    ours, theirs = (dict(zip(one.seeds, one.values(key)[:, -1].tolist(), strict=True)) for one in (arm, baseline))
    shared = [seed for seed in ours if seed in theirs]
    if arm is baseline or len(shared) < 2:
        return None
    return paired_difference(np.array([ours[seed] for seed in shared]), np.array([theirs[seed] for seed in shared]))


def analyse(config: FairnessConfig) -> output.Result:
    """Mean, spread and worst tenth of every arm, and every client's accuracy.

    Raises:
        UserError: a folder is no run, or its run was not evaluated at the clients.
    """
    runs = [read_run(folder) for folder in config.runs]
    check(runs, config.allow_different)
    arms = group(runs)
    by_arm = {arm.label: [accuracies(run) for run in arm.runs] for arm in arms}
    rows = [
        (arm.label, run.config.seed, client, *(float(value) if np.isfinite(value) else "" for value in found))
        for arm in arms
        for run, values in zip(arm.runs, by_arm[arm.label], strict=True)
        for client, found in enumerate(zip(values, fine_tuned(run), strict=True))
    ]
    sentences = [_sentence(arm, arms[0], by_arm) for arm in arms]
    header = ("arm", "seed", "client", "accuracy", "fine_tuned_accuracy")
    return output.Result("fairness", sentences, header, rows, _draw(arms, by_arm))


def _sentence(arm: Arm, baseline: Arm, by_arm: dict[str, list[np.ndarray]]) -> str:
    mine = by_arm[arm.label]
    mean, spread = (100 * float(np.mean([measure(values) for values in mine])) for measure in (np.nanmean, np.nanstd))
    lead, worst_lead = (_against(arm, baseline, key) for key in (CLIENT_MEAN, CLIENT_WORST))
    text = f"{arm.label}: {mean:.1f}% on average over the clients"
    text += f" ({apart(lead.mean)} {baseline.label}'s)" if lead else ""
    text += f", standard deviation {spread:.1f} points, worst tenth {100 * arm.values(CLIENT_WORST)[:, -1].mean():.1f}%"
    if worst_lead:
        low, high = map(signed, (worst_lead.low, worst_lead.high))
        text += f", which is {apart(worst_lead.mean)} {baseline.label}'s [{low}, {high}]"
    tuned = [fine_tuned(run) for run in arm.runs]
    if all(np.isfinite(values).any() for values in tuned):
        text += f"; after fine-tuning {100 * float(np.mean([np.nanmean(values) for values in tuned])):.1f}% on average"
    return f"{text} ({counted(len(mine), 'seed')})."


def _draw(arms: Sequence[Arm], by_arm: dict[str, list[np.ndarray]]) -> Figure:
    """The share of clients, of all seeds, whose accuracy is no higher than a value."""
    figure = plots.new_figure(7, 4)
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        joined = np.concatenate(by_arm[arm.label])
        axes.ecdf(100 * joined[np.isfinite(joined)], color=f"C{number}", label=plots.literal(arm.label))
    axes.set(xlabel="accuracy at a client, %", ylabel="share of the clients at or below")
    plots.style(axes)
    axes.legend(frameon=False)
    return figure


def main(config: FairnessConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(FairnessConfig, PROG)))
