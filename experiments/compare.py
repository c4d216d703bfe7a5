"""Initialisations x seeds, side by side: ``python -m experiments.compare --inits random checkpoints/fps_r20.pt``.

Takes every option of run_fl.py, ``--config FILE`` too. Finished runs are read, unfinished ones are resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.comparison.config import CompareConfig
from experiments.comparison.tuning import choose, record
from experiments.report.comparable import check, check_revisions
from experiments.report.page import CURVES, PAGE, points, write
from experiments.report.runs import read_run
from federated.config import file as config_file
from federated.config.run import RunConfig
from fps_pretrain.common import cli, environment

PROG = "experiments.compare"

EXIT_FAILED = 3
"""Exit code when a run could not go on, as of run_fl.py."""


def _carry_out(runs: Sequence[RunConfig]) -> None:
    """Run what is missing.

    Raises:
        RunFailed: a run could not go on; the message names its folder.
    """
    from federated.server import run as rounds

    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.init}, lr {run.lr:g}, seed {run.seed}", file=sys.stderr)
        try:
            environment.record(rounds.run(run).folder)
        except rounds.RunFailed as error:
            advice = "the same command goes on from the last completed round"
            raise rounds.RunFailed(f"{PROG}: failed in {run.folder}: {error}; {advice}") from error


def _tune(config: CompareConfig) -> dict[str, float]:
    """The learning rate for each initialisation; what was tried is written into the comparison's folder."""
    candidates = list(config.candidates())
    _carry_out(candidates)
    tried = [read_run(run.folder) for run in candidates]
    chosen = choose(tried)
    record(config.folder, tried, chosen)
    return chosen


def main(config: CompareConfig) -> int:
    """Run what is missing, then write the page; returns the exit code."""
    from federated.server.initialise import initial_encoder
    from federated.server.rounds import RunFailed
    from federated.server.run_folder import RunFolder

    for run in [*config.candidates(), *config.runs({})]:  # refuse now what would be refused hours from now
        RunFolder.find(run.folder, run)
        initial_encoder(run)
    check_revisions([run.folder for run in config.runs({})], config.allow_different)
    try:
        runs = list(config.runs(_tune(config) if config.lrs else {}))
        _carry_out(runs)
    except RunFailed as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    command = f"python -m {PROG} " + " ".join(sys.argv[1:])
    done = [read_run(run.folder) for run in runs]
    check(done, config.allow_different)
    summaries = write(done, config.folder, config.targets, config.title, command)
    for summary in summaries:
        line = f"{summary.arm}: final {summary.final:.1%}, best {summary.best:.1%}"
        if summary.difference:
            mean, bracket, rest = points(summary.difference).partition(" [")
            line += f"; final {mean} points to {summaries[0].arm}{bracket}{rest}"
        print(line, file=sys.stderr)
    print(f"wrote {config.folder / PAGE} and {config.folder / CURVES}", file=sys.stderr)
    return 0


def parse(arguments: list[str]) -> CompareConfig:
    """The comparison in these arguments; exits with one line and code 2 if they are wrong."""
    lists = ("inits", "seeds", "lrs", "targets", "allow_different")
    return config_file.parse(CompareConfig, PROG, arguments, lists=lists, left_out=("init", "seed"))


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, parse(sys.argv[1:])))
