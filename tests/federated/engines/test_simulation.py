"""The engines give the same weights. One simulation serves all checks here: starting Ray takes many seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federated.config.run import RunConfig
from federated.server.run import RunFailed, run
from tests.federated.conftest import run_quietly

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fps-federated[ray]'")


FIELDS: dict[str, Any] = {"clients": 4, "participation": 0.75, "rounds": 3, "strategy": "scaffold"}


def test_ray_gives_the_weights_of_one_process(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    """With clients that are asked first, that remember and that fail: what is said of them is the same, too."""
    fields = {**FIELDS, "inject_failures": 0.3, "seed": 2, "head": "centroid", "init_statistics": "clients"}
    in_process = run_quietly(tiny(output=tmp_path / "inprocess", **fields))
    in_parallel = run_quietly(tiny(output=tmp_path / "ray", engine="ray", **fields))
    assert any(row["failures"] for row in in_process[0])
    assert in_process == in_parallel


@pytest.mark.slow
def test_a_run_without_clients_fails(tiny: Callable[..., RunConfig]) -> None:
    with pytest.raises(RunFailed, match=r"3 of 3 clients failed in round 1 .*: the training loss is nan: lower --lr$"):
        run(tiny(engine="ray", lr=1e30), quiet=True)
