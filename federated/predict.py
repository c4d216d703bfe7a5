"""Classify images with a finished run: ``python -m federated.predict RUN IMAGES...``."""

from __future__ import annotations

import sys

from federated.results import predict
from fps_pretrain.common import cli


def main() -> int:
    """Carry out the process's command line; returns the exit code."""
    command = cli.parse(predict.Command, predict.PROG, sys.argv[1:], description=predict.__doc__ or "")
    return cli.run(predict.PROG, predict.main, command)


if __name__ == "__main__":
    sys.exit(main())
