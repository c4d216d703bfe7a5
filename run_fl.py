"""Federated learning from a random or a pre-trained encoder: python run_fl.py --init checkpoints/fps_r20.pt."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from federated.config import file as config_file
from federated.config.run import RunConfig
from fps_pretrain.common import cli
from fps_pretrain.common.errors import EXIT_FAILED, UserError
from fps_pretrain.common.options.flags import Merged
from fps_pretrain.common.serve import serving

PROG = cli.program("run_fl.py", "fps-federate")


@dataclass(frozen=True)
class Command:
    """What the command line says: a run, and how to go about it."""

    run: Annotated[RunConfig, Merged()]
    """Options of the run."""
    config: Path | None = None
    """YAML file of options, such as a run folder's config.yaml; flags override it."""
    dry_run: bool = False
    """Print the resolved configuration, the partition and an estimate of time and memory; write nothing."""
    resume: bool = True
    """Go on with the run in the run folder; --no-resume keeps that folder beside the new one and starts over."""
    quiet: bool = False
    """Say nothing but errors."""
    verbose: bool = False
    """Say everything that goes to the log."""

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UserError("--quiet and --verbose exclude each other")


def main(command: Command) -> int:
    """Carry the run to its end; returns the exit code."""
    # PyTorch and Flower take seconds to import: only once the flags are known to be right.
    if command.dry_run:
        from federated.server.start.estimate import dry_run

        print(dry_run(command.run))
        return 0
    from federated.results.evaluation import evaluate
    from federated.server.run import RunFailed, run

    with serving(command.run.folder, command.run.serve):
        try:
            resume = command.resume or cli.requeued()  # a requeued job has the command line of the first
            run(command.run, resume=resume, quiet=command.quiet, verbose=command.verbose)
        except RunFailed as error:
            print(f"{PROG}: failed: {error}; {error.advice}", file=sys.stderr)
            return EXIT_FAILED
        evaluate(command.run)
    return 0


def parse(arguments: list[str]) -> Command:
    """The command in these arguments; leaves with one line and exit code 2 if they are wrong."""
    return config_file.parse(Command, PROG, arguments, description=__doc__ or "")


def console() -> int:
    """Carry out the process's command line; returns the exit code."""
    return cli.run(PROG, main, parse(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(console())
