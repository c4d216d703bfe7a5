"""Shared by all tests: one torch thread, so that results and timings do not depend on what else runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)


# A shell that starts the suite in the background has it ignore Ctrl-C, and all programs that the tests start with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of the repository's programs as a user does; returns the completed process with its text."""

    def run(*args: object, cwd: Path = REPOSITORY, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        script, *rest = map(str, args)
        command = [
            sys.executable,
            *(["-m", script] if script.startswith("experiments") else [REPOSITORY / script]),
            *rest,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment)

    return run


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and exactly one line on stderr, which holds ``words``."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
