"""The engines give the same weights. One simulation serves all checks here: starting Ray takes many seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from federated.config import RunConfig
from federated.rounds import RunFailed, run
from tests.federated.conftest import run_quietly

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fps-federated[ray]'")


def test_ray_gives_the_weights_of_one_process(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    fields = {"clients": 4, "participation": 0.75, "rounds": 2}
    in_process = run_quietly(tiny(output=tmp_path / "inprocess", **fields))
    in_parallel = run_quietly(tiny(output=tmp_path / "ray", engine="ray", **fields))
    assert in_process == in_parallel


@pytest.mark.slow
def test_a_failing_client_fails_the_run(tiny: Callable[..., RunConfig]) -> None:
    with pytest.raises(
        RunFailed, match=r"client 0 failed in round 1 \(and 2 .*\): the training loss is nan: lower --lr$"
    ):
        run(tiny(engine="ray", lr=1e30), quiet=True)
