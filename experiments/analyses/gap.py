"""What does federation cost, and how much of that does a start save? ``python -m experiments.analyses.gap RUN...``.

Federated against centralised training that starts alike and sees as many examples (``experiments.compare
--centralised``). The gap is the centralised run's final test accuracy minus the federated one's, paired by seed; the
gaps of two starts are compared, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import output
from experiments.report.arms import differing_options, is_centralised, is_personal, short_names
from experiments.report.comparable import Difference, check
from experiments.report.headline import at_one_rate
from experiments.report.runs import OfRuns, Run, RunFolders, read_run
from experiments.report.statistics import paired_difference, points
from fps_pretrain.common import cli, plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "experiments.analyses.gap"

START = ("arch", "width", "norm", "head", "init_statistics", "train")
"""Options beside ``init`` in which federated and centralised runs of one start agree: those of the model."""


@dataclass(frozen=True)
class GapConfig(OfRuns):
    """Federated against centralised training of the same budget."""

    runs: RunFolders
    """Run folders, federated and centralised (one client that holds all data); the first one's start is the baseline.
    """
    allow_different: tuple[Difference, ...] = ()
    """Take runs all the same that differ in these."""
    output: Path = output.FOLDER
    """Folder for gap.csv, .txt and .png."""


@dataclass(frozen=True)
class Gap:
    """Final test accuracies in [0, 1] of one start, ``name`` for short, for the seeds that have both ``(seeds,)``."""

    init: str
    name: str
    seeds: list[int]
    federated: np.ndarray
    centralised: np.ndarray

    @property
    def values(self) -> dict[int, float]:
        """The gap of each seed."""
        return dict(zip(self.seeds, (self.centralised - self.federated).tolist(), strict=True))


def gaps(runs: Sequence[Run], allowed: Sequence[Difference] = ()) -> list[Gap]:
    """The gap of each start that has federated and centralised runs; they may differ in what is ``allowed``.

    Raises:
        UserError: none has, two runs of a start and seed are of one kind, runs of a kind differ in more, or the kinds
            differ in their model.
    """
    check(runs, allowed)
    if any(is_personal(run.config) for run in runs):
        raise UserError("runs with --personal head have no model for the test set, and so no gap to a centralised one")
    for kind, word in ((False, "federated"), (True, "centralised")):
        members = [run for run in runs if is_centralised(run.config) is kind]
        if differing := differing_options(members, but=("init", "lr")):
            raise UserError(f"a gap is that of one federation, and the {word} runs differ in {', '.join(differing)}")
    if differing := [name for name in START if len({getattr(run.config, name) for run in runs}) > 1]:
        raise UserError(
            f"a gap is that of one start, and federated and centralised runs differ in {', '.join(differing)}"
        )
    finals: dict[str, dict[bool, dict[int, float]]] = {}
    for run in runs:
        of_kind = finals.setdefault(run.config.init, {}).setdefault(is_centralised(run.config), {})
        if run.config.seed in of_kind:
            raise UserError(f"{run.folder}: another run of this start, seed and kind is named, too")
        of_kind[run.config.seed] = float(run.values("test_accuracy")[-1])
    found = []
    names = short_names(finals)
    for init, kinds in finals.items():
        ours, theirs = kinds.get(False, {}), kinds.get(True, {})
        if seeds := sorted(ours.keys() & theirs.keys()):
            columns = (np.array([kind[seed] for seed in seeds]) for kind in (ours, theirs))
            found.append(Gap(init, names[init], seeds, *columns))
    if not found:
        raise UserError("no start has a federated and a centralised run of one seed: compare with --centralised")
    return found


def analyse(config: GapConfig, *, tuned: bool = False) -> output.Result:
    """The gaps, and how they differ.

    Args:
        config: the runs.
        tuned: whether each start's learning rate was chosen. If not, and all runs have one, it is said.

    Raises:
        UserError: as ``gaps`` says, or a folder is no run.
    """
    runs = [read_run(folder) for folder in config.runs]
    found = gaps(runs, config.allow_different)
    rows = [
        (gap.init, seed, *values)
        for gap in found
        for seed, *values in zip(gap.seeds, gap.federated.tolist(), gap.centralised.tolist(), strict=True)
    ]
    sentences = [_sentence(gap) for gap in found]
    sentences += [_compared(gap, found[0]) for gap in found[1:] if gap.values.keys() & found[0].values.keys()]
    sentences += [] if tuned else at_one_rate(run.config for run in runs)
    header = ("init", "seed", "federated_accuracy", "centralised_accuracy")
    return output.Result("gap", sentences, header, rows, _draw(found))


def _sentence(gap: Gap) -> str:
    difference = paired_difference(gap.centralised, gap.federated)
    return (
        f"{gap.name}: centralised {100 * gap.centralised.mean():.1f}%, federated "
        f"{100 * gap.federated.mean():.1f}%, a gap of {points(difference, ' points')}, "
        f"{counted(len(gap.seeds), 'seed')}."
    )


def _compared(gap: Gap, baseline: Gap) -> str:
    seeds = sorted(gap.values.keys() & baseline.values.keys())
    difference = paired_difference(*(np.array([one.values[seed] for seed in seeds]) for one in (gap, baseline)))
    return (
        f"The gap of {gap.name} less that of {baseline.name}: {points(difference, ' points')}, "
        f"{counted(len(seeds), 'seed')}."
    )


def _draw(found: Sequence[Gap]) -> Figure:
    """Federated and centralised accuracy of each start, a line a seed."""
    figure = plots.new_figure(2 + 2 * len(found), 4)
    axes = figure.subplots()
    for number, gap in enumerate(found):
        for federated, centralised in zip(gap.federated, gap.centralised, strict=True):
            axes.plot([3 * number, 3 * number + 1], [100 * federated, 100 * centralised], "o-", color=f"C{number}")
    axes.set_xticks(
        [3 * number + side for number in range(len(found)) for side in (0, 1)],
        labels=[plots.literal(f"{gap.name}\n{kind}") for gap in found for kind in ("federated", "central")],
        fontsize="small",
    )
    axes.set_ylabel("final test accuracy, %")
    plots.style(axes)
    return figure


def main(config: GapConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(GapConfig, PROG)))
