"""One process at a time works on a run; a finished run may be given again by anybody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federated.config.run import RunConfig
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked


def test_a_finished_run_given_again_needs_no_lock(tiny: Callable[..., RunConfig]) -> None:
    first = run(tiny(rounds=1), quiet=True)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    with locked(first.folder):
        assert run(tiny(rounds=1), quiet=True).history == first.history
    assert before == {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    (first.folder / "model.pt").unlink()
    with locked(first.folder), pytest.raises(UserError, match="run is being worked on by another process"):
        run(tiny(rounds=1), quiet=True)
