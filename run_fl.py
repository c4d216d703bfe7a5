"""Federated learning from a random or a pre-trained encoder: python run_fl.py --init checkpoints/fps_r20.pt."""

from __future__ import annotations

import sys

from federated.config import RunConfig
from fps_pretrain import cli

PROG = "run_fl.py"

EXIT_FAILED = 3
"""Exit code of a run in which a client failed; the same command goes on from the last completed round."""


def main(config: RunConfig) -> int:
    """Carry the run to its end; returns the exit code."""
    # PyTorch and Flower take seconds to import: only once the flags are known to be right.
    from federated.rounds import RunFailed, run

    try:
        run(config)
    except RunFailed as error:
        print(f"{PROG}: failed: {error}; the same command goes on from the last completed round", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(RunConfig, PROG, description=__doc__ or "")))
