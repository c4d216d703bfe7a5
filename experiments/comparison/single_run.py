"""One run of a comparison as a process of its own: ``python -m experiments.comparison.single_run CONFIG.yaml``.

It says nothing unless it fails: its progress is what it writes into its run folder. When the comparison is gone,
however that ended, it saves its state and ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from federated.config.run import from_yaml
from fps_pretrain.common import cli
from fps_pretrain.common.errors import EXIT_FAILED
from fps_pretrain.common.files import LOCK, wait_for_unlock

PROG = "experiments.comparison.single_run"

EXIT_DIVERGED = 4
"""Exit code where training diverges, which the comparison must tell from other failures; it shows 3 in its place."""


def main(path: str) -> int:
    """Carry out or resume the run that a YAML file describes; returns the exit code."""
    from federated.results.evaluation import evaluate
    from federated.server import run as rounds

    config = from_yaml(Path(path).read_text())
    try:
        rounds.run(config, quiet=True)
    except rounds.RunFailed as error:
        print(error, file=sys.stderr)
        return EXIT_DIVERGED if isinstance(error, rounds.Diverged) else EXIT_FAILED
    evaluate(config)
    return 0


def main_here(path: str) -> int:
    """``main`` for as long as the comparison lives, which keeps the file's folder locked; returns the exit code."""
    folder = Path(path).parent
    if (folder / LOCK).exists():  # else somebody has started this by hand
        threading.Thread(target=_end_with_comparison, args=(folder,), daemon=True).start()
    return main(path)


def _end_with_comparison(folder: Path) -> None:
    wait_for_unlock(folder)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main_here, sys.argv[1]))
