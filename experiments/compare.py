"""Initialisations x seeds, side by side: ``python -m experiments.compare --inits random checkpoints/fps_r20.pt``.

Takes every option of run_fl.py, ``--config FILE`` too. Runs that are finished are read, unfinished ones resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.report.page import CURVES, PAGE, check_targets, csv_text, write
from experiments.report.runs import Run, read_run
from federated.config import file as config_file
from federated.config.run import RunConfig, init_name
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_text_atomically

PROG = "experiments.compare"

TUNING = "tuning.csv"
"""What each learning rate came to on the validation split."""

EXIT_FAILED = 3
"""Exit code when a run could not go on, as of run_fl.py."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare initialisations over seeds; the first is the baseline. Every option of run_fl.py applies to all runs."""

    inits: tuple[str, ...] = ("random", "checkpoints/fps_r20.pt")
    """Initialisations, each as run_fl.py's --init takes it; the first is the baseline."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each gives one run of every initialisation, with the same partition, head and batches."""
    lrs: tuple[float, ...] = ()
    """Learning rates to choose from, for each initialisation by itself: that with the best validation accuracy after
    the last round of the first seed's run, the test set unseen; none for --lr."""
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
            UserError: no initialisation or seed, one named twice, --init or --seed instead of --inits or --seeds,
                learning rates to choose from and nothing to choose by, or a run's folder as the comparison's.
        """
        if self.run.init != RunConfig.init or self.run.seed != RunConfig.seed:
            raise UserError("a comparison takes --inits and --seeds, not --init and --seed")
        for flag, values in (("--inits", self.inits), ("--seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{flag} must name one or more different values")
        if len(set(self.lrs)) < len(self.lrs):
            raise UserError("--lrs must name different values")
        if self.lrs and not self.run.validation:
            raise UserError("--lrs needs --validation above 0: the split that the choice is made on")
        check_targets(self.targets)
        if (self.folder / "config.yaml").exists():
            raise UserError(f"{self.folder} is the folder of a run: choose another --output")
        list(self.runs({})), list(self.candidates())

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

    def _run(self, init: str, seed: int, lr: float | None) -> RunConfig:
        name = init_name(init)
        if sum(init_name(other) == name for other in self.inits) > 1:
            name = f"{self.inits.index(init)}-{name}"
        if lr is not None:
            name += f"-lr{lr:g}"
        output = self.folder / "runs" / f"{name}-s{seed}"
        return replace(self.run, init=init, seed=seed, output=output, lr=self.run.lr if lr is None else lr)

    def candidates(self) -> Iterator[RunConfig]:
        """The first seed's runs with each of ``lrs``, one of which each initialisation goes on with."""
        for init in self.inits:
            for lr in self.lrs:
                yield self._run(init, self.seeds[0], lr)

    def runs(self, lrs: Mapping[str, float]) -> Iterator[RunConfig]:
        """The runs' configurations: all initialisations of a seed before the next seed.

        Args:
            lrs: the learning rate chosen for an initialisation; --lr where there is none.
        """
        for seed in self.seeds:
            for init in self.inits:
                yield self._run(init, seed, lrs.get(init))


def choose(candidates: Sequence[Run]) -> dict[str, float]:
    """For each initialisation the learning rate of the run with the best last validation accuracy, the lower of two."""
    best: dict[str, Run] = {}
    for run in sorted(candidates, key=lambda run: run.config.lr):
        other = best.get(run.config.init)
        if other is None or run.history[-1]["val_accuracy"] > other.history[-1]["val_accuracy"]:
            best[run.config.init] = run
    return {init: run.config.lr for init, run in best.items()}


def _carry_out(runs: Sequence[RunConfig]) -> None:
    """Run what is missing.

    Raises:
        RunFailed: a run could not go on; the message names its folder.
    """
    from federated.server import run as rounds

    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.init}, lr {run.lr:g}, seed {run.seed}", file=sys.stderr)
        try:
            rounds.run(run)
        except rounds.RunFailed as error:
            advice = "the same command goes on from the last completed round"
            raise rounds.RunFailed(f"{PROG}: failed in {run.folder}: {error}; {advice}") from error


def _tune(config: CompareConfig) -> dict[str, float]:
    """The learning rate for each initialisation; what was tried is written into the comparison's folder."""
    candidates = list(config.candidates())
    _carry_out(candidates)
    tried = [read_run(run.folder) for run in candidates]
    chosen = choose(tried)
    rows = []
    for run in tried:
        mark = "yes" if chosen[run.config.init] == run.config.lr else "no"
        accuracy = run.history[-1]["val_accuracy"]
        rows.append((init_name(run.config.init), f"{run.config.lr:g}", run.config.seed, f"{accuracy:.4f}", mark))
        if mark == "yes":
            print(f"{run.config.init}: lr {run.config.lr:g}, validation accuracy {accuracy:.1%}", file=sys.stderr)
    header = ("init", "lr", "seed", "val_accuracy", "chosen")
    write_text_atomically(config.folder / TUNING, csv_text(header, rows))
    return chosen


def main(config: CompareConfig) -> int:
    """Run what is missing, then write the page; returns the exit code."""
    from federated.server.initialise import initial_encoder
    from federated.server.rounds import RunFailed
    from federated.server.run_folder import RunFolder

    for run in [*config.candidates(), *config.runs({})]:  # what would be refused hours from now is refused now
        RunFolder.find(run.folder, run)
        initial_encoder(run)
    try:
        runs = list(config.runs(_tune(config) if config.lrs else {}))
        _carry_out(runs)
    except RunFailed as error:
        print(error, file=sys.stderr)
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
        CompareConfig, PROG, arguments, lists=("inits", "seeds", "lrs", "targets"), left_out=("init", "seed")
    )


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, parse(sys.argv[1:])))
