"""Initialisations x seeds, side by side: ``python -m experiments.compare --inits random checkpoints/fps_r20.pt``.

Takes every option of run_fl.py, ``--config FILE`` too. Runs that are finished are read, unfinished ones resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.report import CURVES, PAGE, check_targets, write
from experiments.runs import read_run
from federated import config_file
from federated.config import RunConfig
from fps_pretrain import cli
from fps_pretrain.errors import UserError

PROG = "experiments.compare"

EXIT_FAILED = 3
"""Exit code when a run could not go on, as of run_fl.py."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare initialisations over seeds; the first is the baseline. Every option of run_fl.py applies to all runs."""

    inits: tuple[str, ...] = ("random", "checkpoints/fps_r20.pt")
    """Initialisations: 'random' or paths of checkpoints; the first is the baseline."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each gives one run of every initialisation, with the same partition, head and batches."""
    targets: tuple[float, ...] = ()
    """Test accuracies whose first round is reported; none for 50%, 75% and 90% of the baseline's best."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    """Options of run_fl.py."""
    config: Path | None = None
    """YAML file of options, such as a run folder's config.yaml, whose init and seed give way to --inits and --seeds;
    flags override it."""

    def __post_init__(self) -> None:
        """Check what the runs' own configurations do not.

        Raises:
            UserError: no initialisation or seed, one named twice, --init or --seed instead of --inits or --seeds, or
                a run's folder as the comparison's.
        """
        if self.run.init != RunConfig.init or self.run.seed != RunConfig.seed:
            raise UserError("a comparison takes --inits and --seeds, not --init and --seed")
        for flag, values in (("--inits", self.inits), ("--seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{flag} must name one or more different values")
        check_targets(self.targets)
        if (self.folder / "config.yaml").exists():
            raise UserError(f"{self.folder} is the folder of a run: choose another --output")
        list(self.runs())

    @property
    def folder(self) -> Path:
        """The comparison's folder: --output, or a name under runs/ made of data set and partition."""
        if self.run.output is not None:
            return self.run.output
        default = self.run.folder
        return default.with_name(f"compare-{default.name.removesuffix('-random-s0')}")

    @property
    def title(self) -> str:
        """Data set, clients and partition, for page and picture."""
        return f"{self.run.dataset}, {self.run.clients} clients, {self.run.partition_title}"

    def runs(self) -> Iterator[RunConfig]:
        """The runs' configurations: all initialisations of a seed before the next seed."""
        stems = [Path(init).stem for init in self.inits]
        for seed in self.seeds:
            for init, stem in zip(self.inits, stems, strict=True):
                name = stem if stems.count(stem) == 1 else f"{self.inits.index(init)}-{stem}"
                yield replace(self.run, init=init, seed=seed, output=self.folder / "runs" / f"{name}-s{seed}")


def main(config: CompareConfig) -> int:
    """Run what is missing, then write the page; returns the exit code."""
    from federated import rounds
    from federated.initialise import initial_encoder
    from federated.run_folder import RunFolder

    runs = list(config.runs())
    for run in runs:  # what would be refused hours from now is refused now
        RunFolder.find(run.folder, run)
        initial_encoder(run)
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.init}, seed {run.seed}", file=sys.stderr)
        try:
            rounds.run(run)
        except rounds.RunFailed as error:
            advice = "the same command goes on from the last completed round"
            print(f"{PROG}: failed in {run.folder}: {error}; {advice}", file=sys.stderr)
            return EXIT_FAILED
    command = f"python -m {PROG} " + " ".join(sys.argv[1:])
    done = [read_run(run.folder) for run in runs]
    summaries = write(done, config.folder, config.targets, config.title, command)
    for summary in summaries:
        line = f"{summary.arm}: final {summary.final:.1%}, best {summary.best:.1%}"
        if summary.difference:
            low, high = summary.difference.low, summary.difference.high
            line += f"; final {100 * summary.difference.mean:+.1f} points to {summaries[0].arm}"
            line += f" [{100 * low:+.1f}, {100 * high:+.1f}]" if summary.difference.pairs > 1 else ""
        print(line, file=sys.stderr)
    print(f"wrote {config.folder / PAGE} and {config.folder / CURVES}", file=sys.stderr)
    return 0


def parse(arguments: list[str]) -> CompareConfig:
    """The comparison in these arguments; leaves with one line and exit code 2 if they are wrong."""
    return config_file.parse(
        CompareConfig, PROG, arguments, lists=("inits", "seeds", "targets"), left_out=("init", "seed")
    )


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, parse(sys.argv[1:])))
