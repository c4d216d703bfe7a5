"""Shared by all tests: one torch thread, so that results and timings do not depend on what else runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from tests import browser
from tests.tools import warm

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)


# A shell that starts the suite in the background has it ignore Ctrl-C, and all programs that the tests start with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def chromium() -> Iterator[browser.Browser]:
    """A headless browser, for tests of pages."""
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.browser() as opened:
        yield opened


RunScript = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """No test cuts the power: what a killed process has written, the next one reads with or without ``fsync``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _processes_begin_warm() -> Iterator[None]:
    """Whoever starts Python's forkserver: also the workers of federations are forks of one that has all imported."""
    multiprocessing.set_forkserver_preload(warm.PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forkserver, "set_forkserver_preload", lambda _: None)
        yield


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> RunScript:
    """Run one of the repository's programs as a user does; returns the completed process with its text.

    Torch and its like are imported once for all (``tests.tools.warm``), unless ``fresh`` asks for a new interpreter.
    """
    folder = tmp_path_factory.mktemp("programs")

    def run(
        *args: object, cwd: Path = REPOSITORY, timeout: float = 300, fresh: bool = False
    ) -> subprocess.CompletedProcess[str]:
        script, *rest = map(str, args)
        command = [sys.executable, *([str(REPOSITORY / script)] if script.endswith(".py") else ["-m", script]), *rest]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        if fresh:
            return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment)
        with (folder / "stdout").open("w+") as output, (folder / "stderr").open("w+") as errors:
            program = warm.Program(command, stdout=output, stderr=errors, cwd=cwd, env=environment)
            try:
                code = program.wait(timeout)
            finally:
                program.kill()
            return subprocess.CompletedProcess(command, code, output.read(), errors.read())

    return run


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and exactly one line on stderr, which holds ``words``."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
