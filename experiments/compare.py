"""Initialisations x seeds, side by side: ``python -m experiments.compare --inits random checkpoints/fps_r20.pt``.

Takes every option of run_fl.py, ``--config FILE`` too. Finished runs are read, unfinished ones are resumed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.comparison.config import OPTIONS, CompareConfig
from experiments.comparison.running import ComparisonFailed, Failure, check_begun, run_here, side_by_side
from experiments.comparison.tuning import cautions, choose, record
from experiments.report.arms import arm_key, is_centralised
from experiments.report.comparable import check, check_revisions
from experiments.report.headline import at_one_rate
from experiments.report.page import ANALYSES, say, write
from experiments.report.runs import Run, read_run
from federated.config import file as config_file
from federated.config.run import RunConfig
from fps_pretrain.common import cli
from fps_pretrain.common.errors import EXIT_FAILED
from fps_pretrain.common.serve import serving

PROG = cli.program("experiments.compare", "fps-compare")

SLURM = "slurm"
"""Folder of a comparison's Slurm jobs, with their logs."""


def _carry_out(
    config: CompareConfig, runs: Sequence[RunConfig], failures: dict[Path, Failure], *, tuning: bool = False
) -> list[Run]:
    """Run what is missing and read what is finished; note in ``failures`` which runs could not go on.

    With --serve, a page shows the runs that are finished while the others go on, unless they are of the ``tuning``.

    Raises:
        ComparisonFailed: without --jobs, a run could not go on, unless it is of the tuning and diverges.
        UserError: a run began from other weights, or on other data, than there are now.
    """
    check_begun(runs, data=not config.slurm)
    if config.slurm:
        from experiments.comparison.slurm import Cluster

        failures.update(side_by_side(runs, config.jobs, Cluster(config.slurm, config.folder.resolve() / SLURM)))
    elif config.jobs == 1:
        for number, run in enumerate(runs, 1):
            if failure := run_here(run, number, len(runs)):
                if not (tuning and failure.diverged):
                    raise ComparisonFailed(f"failed in {run.folder}: {failure.reason}; {failure.advice}")
                failures[run.folder] = failure
            elif not tuning and config.run.serve is not None and number < len(runs):
                _report(config, [read_run(done.folder) for done in runs[:number]], unfinished=True)
    else:
        from experiments.comparison.plan import plan

        for line in plan(runs, config.jobs):
            print(line, file=sys.stderr)
        failures.update(side_by_side(runs, config.jobs))
    return [read_run(run.folder) for run in runs if run.folder not in failures]


def _tune(config: CompareConfig) -> tuple[dict[str, float], list[str]]:
    """The learning rate for each arm, and cautions about the choice; what was tried is written into the folder.

    A rate at which training diverges is not chosen.

    Raises:
        ComparisonFailed: an arm has no rate left, or a run ended for another reason, which may not come again.
    """
    failures: dict[Path, Failure] = {}
    candidates = list(config.candidates())
    tried = _carry_out(config, candidates, failures, tuning=True)
    for folder, failure in failures.items():
        if not failure.diverged:
            raise ComparisonFailed(f"failed in {folder}: {failure.reason}; {failure.advice}")
        print(f"{PROG}: not chosen, since it diverges: {folder}: {failure.reason}", file=sys.stderr)
    left = {arm_key(run.config) for run in tried}
    for run in candidates:
        if arm_key(run) not in left:
            raise ComparisonFailed(f"{arm_key(run)} can be trained with none of --lrs: name lower ones")
    chosen = choose(tried)
    diverged = [run for run in candidates if run.folder in failures]
    record(config.folder, tried, chosen, diverged)
    notes = cautions(tried, chosen, diverged)
    for note in notes:
        print(note, file=sys.stderr)
    return chosen, notes


def main(config: CompareConfig) -> int:
    """Run what is missing, then write the page; returns the exit code."""
    from federated.server.output.run_folder import RunFolder
    from federated.server.start.initialise import initial_encoder

    planned = [*config.candidates(), *config.runs({})]
    for run in planned:  # refuse now what would be refused hours from now
        RunFolder.find(run.folder, run)
        initial_encoder(run)
    check_revisions([run.folder for run in planned], config.allow_different)
    with serving(config.folder, config.run.serve):
        return _run(config)


def _run(config: CompareConfig) -> int:
    failures: dict[Path, Failure] = {}
    try:
        lrs, notes = _tune(config) if config.lrs else ({}, at_one_rate(config.runs({})) if config.centralised else [])
        done = _carry_out(config, list(config.runs(lrs)), failures)
    except ComparisonFailed as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return EXIT_FAILED
    if done:
        _report(config, done, failed=[folder.name for folder in failures], notes=notes)
    for folder, failure in failures.items():
        print(f"{PROG}: failed in {folder}: {failure.reason}; {failure.advice}", file=sys.stderr)
    return EXIT_FAILED if failures else 0


def _report(
    config: CompareConfig,
    done: Sequence[Run],
    *,
    unfinished: bool = False,
    failed: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page and what stands on it, and say what came out; with ``unfinished`` the page alone, of some runs."""
    # The baseline comes first, also where its first seed's run failed.
    done = sorted(done, key=lambda run: (is_centralised(run.config), config.inits.index(run.config.init)))
    check(done, config.allow_different)
    if config.analyses and not unfinished:
        from experiments.analyses.every import run_all

        run_all([run.folder for run in done], config.folder / ANALYSES, config.allow_different, tuned=bool(config.lrs))
    command = f"{'' if PROG == 'fps-compare' else 'python -m '}{PROG} " + shlex.join(sys.argv[1:])
    summaries = write(
        done, config.folder, config.targets, config.title, command, unfinished=unfinished, failed=failed, notes=notes
    )
    if not unfinished:
        say(summaries, config.folder, done, failed, notes)


def parse(arguments: list[str]) -> CompareConfig:
    """The comparison in these arguments; exits with one line and code 2 if they are wrong."""
    return config_file.parse(CompareConfig, PROG, arguments, lists=OPTIONS)


def console() -> int:
    """Carry out the process's command line; returns the exit code."""
    return cli.run(PROG, main, parse(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(console())
