"""All analyses that runs allow: ``python -m experiments.analyses.every RUN... --output COMPARISON/analyses``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.analyses import convergence, drift, fairness, gap, landscape, output, stability
from experiments.report.arms import Arm, group
from experiments.report.comparable import Difference
from experiments.report.runs import OfRuns, Run, RunFolders, read_run
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError

PROG = "experiments.analyses.every"


@dataclass(frozen=True)
class EveryConfig(OfRuns):
    """Every analysis that the runs' options allow."""

    runs: RunFolders
    """Folders of finished runs; the first one's arm is the baseline."""
    allow_different: tuple[Difference, ...] = ()
    """Compare runs all the same that differ in these."""
    output: Path = output.FOLDER
    """Folder for the analyses' files."""


MADE_HERE = ("convergence", "fairness", "gap", "stability", "drift", "landscape-*")
"""Names of the analyses' files without their suffix, as patterns."""


def run_all(folders: Sequence[Path], where: Path, allowed: Sequence[Difference] = (), *, tuned: bool = False) -> None:
    """Write every analysis that the runs allow into ``where``, and say why others are left out.

    What an earlier call wrote there is removed: it may be of other runs.

    Args:
        folders: the runs.
        where: the analyses' folder.
        allowed: what the runs may differ in, where they are compared.
        tuned: whether each start's learning rate was chosen.

    Raises:
        UserError: a folder is no run.
    """
    runs = [read_run(folder) for folder in folders]
    federated = [run.folder for run in runs if run.config.clients > 1]
    todo: dict[str, Callable[[], output.Result]] = {
        "convergence": lambda: convergence.analyse(
            convergence.ConvergenceConfig(tuple(federated), allow_different=tuple(allowed))
        ),
        "fairness": lambda: fairness.analyse(fairness.FairnessConfig(tuple(federated), tuple(allowed))),
        "gap": lambda: gap.analyse(gap.GapConfig(tuple(folders), tuple(allowed)), tuned=tuned),
        "stability": lambda: stability.analyse(stability.StabilityConfig(tuple(federated))),
        "drift": lambda: drift.analyse(drift.DriftConfig(tuple(federated))),
    }
    # Whether runs that differ in their seed alone end in one basin is asked of each arm, of up to three seeds.
    arms = group([run for run in runs if run.config.clients > 1])
    names = [_file_name(arm) for arm in arms]
    several = {
        name if names.count(name) == 1 else f"{name}-{number}": arm.runs[:3]
        for number, (name, arm) in enumerate(zip(names, arms, strict=True))
        if len(arm.runs) > 1
    }
    todo |= {name: _landscape(name, chosen) for name, chosen in several.items()}
    for pattern in MADE_HERE:
        for suffix in ("csv", "txt", "png"):
            for old in where.glob(f"{pattern}.{suffix}"):
                old.unlink()
    for name, analyse in todo.items():
        try:
            output.write(where, analyse())
        except UserError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    if not several:
        print("left out: landscape: no arm has runs of two seeds or more", file=sys.stderr)


def _file_name(arm: Arm) -> str:
    """The name of an arm's landscape: its label, without what a file's name had better not hold."""
    return "landscape-" + re.sub(r"[^\w.+=-]+", "-", arm.label)


def _landscape(name: str, chosen: Sequence[Run]) -> Callable[[], output.Result]:
    def analyse() -> output.Result:
        found = landscape.analyse(landscape.LandscapeConfig(tuple(run.folder for run in chosen)))
        return output.named(found, name)

    return analyse


def main(config: EveryConfig) -> int:
    """Analyse and write; returns the exit code."""
    run_all(config.runs, config.output, config.allow_different)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(EveryConfig, PROG)))
