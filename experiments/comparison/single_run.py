"""One run of a comparison as a process of its own: ``python -m experiments.comparison.single_run CONFIG.yaml``.

It says nothing unless it fails: its progress is what it writes into its run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from federated.config.run import from_yaml
from fps_pretrain.common import cli
from fps_pretrain.common.errors import EXIT_FAILED

PROG = "experiments.comparison.single_run"


def main(path: str) -> int:
    """Carry out or resume the run that a YAML file describes; returns the exit code."""
    from federated.results.evaluation import evaluate
    from federated.server import run as rounds

    config = from_yaml(Path(path).read_text())
    try:
        rounds.run(config, quiet=True)
    except rounds.RunFailed as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    evaluate(config)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, sys.argv[1]))
