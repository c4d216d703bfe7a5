"""What a process that was killed while it created a run folder leaves, and who works on a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from federated.config.run import RunConfig
from federated.server.rounds import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked


def test_the_half_made_folder_of_a_killed_process_is_removed(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left = tmp_path / f".run.{killed.pid}.partial"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    run(tiny(rounds=1), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_finished_run_given_again_needs_no_lock(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    first = run(tiny(rounds=1), quiet=True)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    with locked(first.folder):
        assert run(tiny(rounds=1), quiet=True).history == first.history
    assert before == {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    (first.folder / "model.pt").unlink()
    with locked(first.folder), pytest.raises(UserError, match="run is being worked on by another process"):
        run(tiny(rounds=1), quiet=True)
