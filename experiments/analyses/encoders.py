"""Is it the method, or one file? ``python -m experiments.analyses.encoders RUN...``.

Several encoders of one method, which differ in the seed of their pre-training, against one baseline such as random
weights. Every encoder starts a federation with every seed. The interval of the mean difference counts encoders and
seeds both as drawn at random, so that it holds for another encoder of the method, too
(``statistics.crossed_difference``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import output
from experiments.report.arms import MEASURES, differing_options, group, measure_of, short_names
from experiments.report.comparable import Difference, check
from experiments.report.runs import OfRuns, Run, RunFolders, read_run
from experiments.report.statistics import crossed_difference, points, spread
from fps_pretrain.common import cli, plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "experiments.analyses.encoders"


@dataclass(frozen=True)
class EncodersConfig(OfRuns):
    """A method against a baseline, over several of its encoders."""

    runs: RunFolders
    """Run folders: those of the baseline first, then those of two encoders or more of one method, each with the same
    seeds."""
    allow_different: tuple[Difference, ...] = ()
    """Take runs all the same that differ in these."""
    output: Path = output.FOLDER
    """Folder for encoders.csv, .txt and .png."""


@dataclass(frozen=True)
class Finals:
    """Final accuracies in [0, 1], on the test set or as ``measure`` says.

    Attributes:
        seeds: of the federations.
        baseline: its name.
        theirs: the baseline's accuracies ``(seeds,)``.
        encoders: names of the encoders.
        ours: their accuracies ``(encoders, seeds)``.
        measure: what the accuracies are, in words.
    """

    seeds: list[int]
    baseline: str
    theirs: np.ndarray
    encoders: list[str]
    ours: np.ndarray
    measure: str


def finals(runs: Sequence[Run], allowed: Sequence[Difference] = ()) -> Finals:
    """The final accuracies, by encoder and seed; runs may differ in what is ``allowed``.

    Raises:
        UserError: runs differ in more than start, learning rate and seed, there are fewer than two encoders or
            seeds, or an encoder lacks a seed.
    """
    check(runs, allowed)
    if differing := differing_options(runs, but=("init", "lr")):
        raise UserError(f"encoders are compared in one federation, and these runs differ in {', '.join(differing)}")
    arms = group(runs)
    baseline, *others = arms
    inits = [arm.runs[0].config.init for arm in arms]
    if len(others) < 2 or len(set(inits)) < len(inits):
        raise UserError("name the runs of a baseline and of at least two encoders, one learning rate for each of them")
    seeds = baseline.seeds
    for arm in others:
        if arm.seeds != seeds or len(seeds) < 2:
            raise UserError(
                f"every start needs the same two seeds or more: {baseline.label} has {_listed(seeds)}, and "
                f"{arm.label} {_listed(arm.seeds)}"
            )
    measure = measure_of(arms)
    theirs, *ours = (arm.values(measure)[:, -1] for arm in arms)
    names = short_names(inits)
    first, *encoders = (names[init] for init in inits)
    return Finals(seeds, first, theirs, encoders, np.stack(ours), MEASURES[measure])


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def analyse(config: EncodersConfig) -> output.Result:
    """The method's lead, and how much of its spread lies between encoders.

    Raises:
        UserError: as ``finals`` says, or a folder is no run.
    """
    found = finals([read_run(folder) for folder in config.runs], config.allow_different)
    differences = found.ours - found.theirs
    rows = [
        (encoder, seed, float(found.theirs[column]), float(found.ours[row, column]))
        for row, encoder in enumerate(found.encoders)
        for column, seed in enumerate(found.seeds)
    ]
    by_encoder = 100 * differences.mean(axis=1)
    sentences = [
        f"{len(found.encoders)} encoders of one method end {points(crossed_difference(differences), ' points')} from "
        f"{found.baseline} in {found.measure} ({counted(len(found.seeds), 'seed')} each; the interval counts encoders "
        "and seeds as drawn at random).",
        f"One encoder's mean lies between {by_encoder.min():+.1f} and {by_encoder.max():+.1f} points; the encoders' "
        f"standard deviation is {spread(by_encoder):.1f} points, that of the seeds "
        f"{spread(100 * differences.mean(axis=0)):.1f}.",
    ]
    header = ("encoder", "seed", "baseline_accuracy", "accuracy")
    return output.Result("encoders", sentences, header, rows, _draw(found))


def _draw(found: Finals) -> Figure:
    """Each encoder's lead: a dot a seed, and their mean as a line."""
    figure = plots.new_figure(2.5 + len(found.encoders), 4)
    axes = figure.subplots()
    for number, row in enumerate(100 * (found.ours - found.theirs)):
        axes.plot(np.full(len(row), number), row, "o", color="C0", alpha=0.6)
        axes.plot([number - 0.2, number + 0.2], [row.mean()] * 2, color="C0")
    axes.axhline(0, color="grey", linewidth=1)
    axes.set_xticks(range(len(found.encoders)), labels=[plots.literal(name) for name in found.encoders])
    axes.set_ylabel(f"points above {plots.literal(found.baseline)}")
    plots.style(axes)
    return figure


def main(config: EncodersConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(EncodersConfig, PROG)))
