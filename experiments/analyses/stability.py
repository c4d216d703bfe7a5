"""Is FedAvg's combination of the clients' models special? ``python -m experiments.analyses.stability RUN...``.

The client models of a round are combined with random convex weights, drawn from a Dirichlet distribution, and the
accuracy of each combination is set against that of FedAvg's, whose weights are the numbers of examples. A narrow
distribution near FedAvg's means that aggregation is stable (Chen et al. 2023, "On the Importance and Applicability of
Pre-Training for Federated Learning", section 5).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import output
from experiments.report.runs import OfRuns, RunFolders, read_config
from experiments.report.statistics import spread
from fps_pretrain.common import cli, plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import numpy_rng
from fps_pretrain.common.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PROG = "experiments.analyses.stability"


@dataclass(frozen=True)
class StabilityConfig(OfRuns):
    """Accuracy of random convex combinations of a round's client models, beside FedAvg's."""

    runs: RunFolders
    """Run folders that keep their clients' models (--keep-clients-every)."""
    samples: int = 50
    """Random combinations a round."""
    concentration: float = 1.0
    """Of the Dirichlet distribution of the weights: 1 is uniform over all convex combinations."""
    limit: int | None = None
    """Use only so many test examples, drawn at random."""
    seed: int = 0
    """Seed of the random weights."""
    output: Path = output.FOLDER
    """Folder for stability.csv, .txt and .png."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: no run, or a number out of range.
        """
        super().__post_init__()
        if self.samples < 1 or self.concentration <= 0:
            raise UserError("--samples must be at least 1 and --concentration above 0")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit must be at least 1, got {self.limit}")


@dataclass(frozen=True)
class Stability:
    """Accuracies in [0, 1] of one round: FedAvg's, and those of the random combinations ``(samples,)``."""

    run: Path
    round: int
    fedavg: float
    random: np.ndarray


def measure(run: Path, config: StabilityConfig) -> list[Stability]:
    """The accuracies of all rounds that a run keeps.

    Raises:
        UserError: it keeps none, or its data are not there.
    """
    from experiments.analyses.models import Evaluator, combine, kept_rounds
    from federated.server.output import client_models

    rounds, run_config = kept_rounds(run), read_config(run)
    evaluator = Evaluator.of(run_config, config.limit)

    def accuracy(models: list[dict[str, Tensor]], shares: list[float]) -> float:
        weights = combine(models, shares)
        # Clients sent no statistics, and the run estimated those of its models anew.
        return evaluator.evaluate(weights if run_config.sends_buffers else evaluator.with_statistics(weights))[1]

    found = []
    for number in rounds:
        kept = client_models.load(run, number)
        # Clients may have kept their buffers: those of the start stand in.
        models = [{**kept.start, **update} for update in kept.updates]
        shares = np.array(kept.examples) / sum(kept.examples)
        fedavg = accuracy(models, shares.tolist())
        draws = numpy_rng(config.seed, "stability", number).dirichlet(
            np.full(len(models), config.concentration), config.samples
        )
        random = [accuracy(models, draw.tolist()) for draw in draws]
        found.append(Stability(run, number, fedavg, np.array(random)))
    return found


def analyse(config: StabilityConfig) -> output.Result:
    """Measure all runs."""
    found = [one for run in config.runs for one in measure(run, config)]
    rows = [
        (one.run.name, one.round, weights, sample, accuracy)
        for one in found
        for weights, accuracies in (("fedavg", [one.fedavg]), ("random", one.random.tolist()))
        for sample, accuracy in enumerate(accuracies)
    ]
    header = ("run", "round", "weights", "sample", "accuracy")
    sentences = [_sentence(run, found) for run in config.runs]
    return output.Result("stability", sentences, header, rows, _draw(found, output.by_arm(config.runs)))


def _sentence(run: Path, found: list[Stability]) -> str:
    mine = [one for one in found if one.run == run]
    fall = 100 * float(np.mean([one.fedavg - one.random.mean() for one in mine]))
    deviation = 100 * float(np.mean([spread(one.random) for one in mine]))
    samples = len(mine[0].random)
    about = f", with a standard deviation of {deviation:.1f} points" if samples > 1 else ""
    return (
        f"{run.name}: random combinations of the client models are on average {abs(fall):.1f} points "
        f"{'below' if fall > 0 else 'above'} FedAvg's{about} ({counted(len(mine), 'round')}, "
        f"{counted(samples, 'combination')} each)."
    )


def _draw(found: list[Stability], arms: Sequence[tuple[str, list[Path]]]) -> Figure:
    """For each run and round a box of the random combinations, and FedAvg's as a diamond; a colour is an arm."""
    runs = [(run, f"C{number}", None if place else plots.literal(label))
            for number, (label, members) in enumerate(arms) for place, run in enumerate(members)]  # fmt: skip
    rounds = sorted({one.round for one in found})
    figure = plots.new_figure(2.5 + 0.5 * len(rounds) * len(runs), 4)
    axes = figure.subplots()
    width = 0.8 / len(runs)
    for number, (run, colour, label) in enumerate(runs):
        mine = [one for one in found if one.run == run]
        places = [rounds.index(one.round) + (number - (len(runs) - 1) / 2) * width for one in mine]
        box = axes.boxplot(
            [one.random for one in mine], positions=places, widths=0.8 * width, patch_artist=True, manage_ticks=False,
            medianprops={"color": "black"},
        )  # fmt: skip
        for patch in box["boxes"]:
            patch.set(facecolor=colour, alpha=0.4)
        axes.plot(places, [one.fedavg for one in mine], "D", color=colour, label=label)
    axes.set_xticks(range(len(rounds)), labels=[str(number) for number in rounds])
    axes.set(xlabel="round", ylabel="test accuracy", title="Random combinations (boxes), FedAvg's (diamonds)")
    plots.style(axes)
    axes.legend(frameon=False)
    return figure


def main(config: StabilityConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(StabilityConfig, PROG)))
