"""How fast? ``python -m experiments.analyses.convergence RUN... --targets 0.4 0.5``.

The first evaluated round whose test accuracy reaches a target, and what the clients have then received and sent. With
``--personal head`` it is the mean accuracy at the clients. Runs that differ in their seed only form an arm.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import output
from experiments.report.arms import Arm, group, measure_of
from experiments.report.comparable import Difference, check
from experiments.report.runs import OfRuns, Run, RunFolders, read_run
from experiments.report.statistics import rounds_to
from experiments.report.summary import check_targets, default_targets
from federated.server.output import file_names
from fps_pretrain.common import cli, plots
from fps_pretrain.common.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "experiments.analyses.convergence"

SPREAD = 0.7
"""Width in which the seeds of one target lie beside each other; targets are 1 apart."""


@dataclass(frozen=True)
class ConvergenceConfig(OfRuns):
    """Rounds and bytes to a test accuracy."""

    runs: RunFolders
    """Run folders; the first one's arm is the baseline."""
    targets: tuple[float, ...] = ()
    """Test accuracies in (0, 1); none for 50%, 75% and 90% of the baseline's best."""
    allow_different: tuple[Difference, ...] = ()
    """Take runs all the same that differ in these."""
    output: Path = output.FOLDER
    """Folder for convergence.csv, .txt and .png."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: no run, or a target is no share.
        """
        super().__post_init__()
        check_targets(self.targets)


@dataclass(frozen=True)
class MessageSizes:
    """Bytes of a run's messages.

    Attributes:
        down: what a client receives in a round.
        up: what it sends.
        once: what it receives beside that the first time that it is asked.
    """

    down: int
    up: int
    once: int = 0


def message_sizes(run: Run) -> MessageSizes:
    """Sizes of the messages of a run.

    Raises:
        UserError: its model is damaged.
    """
    from experiments.analyses.models import final_weights
    from federated import algorithms
    from federated.client.batch_norm import model_structure
    from federated.client.parts import Parts, size_of

    model = model_structure(run.config.arch, run.config.width, run.config.norm, 10)
    # An unfinished run has no model file: ten classes are assumed, and only the head's size is not exact.
    weights = final_weights(run.folder) if (run.folder / file_names.MODEL).is_file() else model.state_dict()
    parts = Parts.of(model, run.config)
    down, up = algorithms.load(run.config).message_sizes(
        parts.shared(weights), parts.parameters, buffers_back=run.config.sends_buffers
    )
    return MessageSizes(down, up, size_of(parts.fixed(weights)))


def traffic(run: Run, sizes: MessageSizes) -> dict[int, int]:
    """Bytes that clients have received and sent until after each round: the run's history says who was asked."""
    total, found, known = 0, {}, set[int]()
    for row in run.history:
        asked = row.get("participants") or []
        answered = len(asked) - len(row.get("failures") or [])
        total += len(asked) * sizes.down + answered * sizes.up + len(set(asked) - known) * sizes.once
        known.update(asked)
        found[row["round"]] = total
    return found


def analyse(config: ConvergenceConfig) -> output.Result:
    """Rounds and bytes of every run and target.

    Raises:
        UserError: a folder is no run, or the runs of an arm have different rounds.
    """
    runs = [read_run(folder) for folder in config.runs]
    check(runs, config.allow_different)
    arms = group(runs)
    targets = list(dict.fromkeys(config.targets or default_targets(arms)))  # one that stands twice counts once
    measure = measure_of(arms)
    rows = []
    for arm in arms:
        for run in arm.runs:
            accuracy, rounds = run.values(measure), run.rounds_of(measure)
            sent = traffic(run, message_sizes(run))
            for target in targets:
                reached = rounds_to(rounds, accuracy, target)
                cost = "" if reached is None else sent[reached]
                rows.append((arm.label, run.config.seed, target, "" if reached is None else reached, cost))
    header = ("arm", "seed", "target", "round", "bytes")
    sentences = [_sentence(arm, targets, rows) for arm in arms]
    return output.Result("convergence", sentences, header, rows, _draw(arms, targets, rows))


def _sentence(arm: Arm, targets: Sequence[float], rows: Sequence[tuple[object, ...]]) -> str:
    parts = []
    for target in targets:
        reached = [(row[3], row[4]) for row in rows if row[0] == arm.label and row[2] == target and row[3] != ""]
        if len(reached) < len(arm.runs):
            parts.append(f"{target:.1%} in {_few(len(reached), len(arm.runs))}")
        else:
            rounds, cost = (float(np.mean([float(str(v[i])) for v in reached])) for i in (0, 1))
            mean = counted(int(rounds), "round") if rounds.is_integer() else f"{rounds:.1f} rounds on average"
            parts.append(f"{target:.1%} after {mean} and {cost / 1e9:.3f} GB")
    seeds = counted(len(arm.runs), "seed")
    return f"{arm.label} reaches {', '.join(parts)} ({f'means over {seeds}' if len(arm.runs) > 1 else seeds})."


def _few(reached: int, runs: int) -> str:
    """In how many runs a target was reached, where that is not all of them."""
    if runs == 1:
        return "no round"
    return f"only {reached} of its {runs} runs" if reached else f"none of its {runs} runs"


def _draw(arms: Sequence[Arm], targets: Sequence[float], rows: Sequence[tuple[object, ...]]) -> Figure:
    """Rounds to each target, a point a seed, beside each other; what was not reached is left out."""
    figure = plots.new_figure(7, 4)
    axes = figure.subplots()
    slots = sum(len(arm.runs) + 1 for arm in arms) - 1  # one a run, and an empty one between arms
    taken = 0
    for number, arm in enumerate(arms):
        shifts = {seed: (taken + place - (slots - 1) / 2) * SPREAD / slots for place, seed in enumerate(arm.seeds)}
        taken += len(arm.runs) + 1
        points = [
            (place + shift, row[3])
            for place, target in enumerate(targets)
            for seed, shift in shifts.items()
            for row in rows
            if row[:3] == (arm.label, seed, target) and row[3] != ""
        ]
        axes.plot(*(zip(*points, strict=True) if points else ([], [])), "o", color=f"C{number}",
                  label=plots.literal(arm.label))  # fmt: skip
    axes.set_xticks(range(len(targets)), labels=[f"{target:.1%}" for target in targets])
    axes.set(xlabel="test accuracy to reach (a dot is a seed)", ylabel="rounds", xlim=(-0.5, len(targets) - 0.5))
    plots.style(axes, integer_y=True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def main(config: ConvergenceConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(ConvergenceConfig, PROG)))
