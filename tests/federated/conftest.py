"""Tiny runs: digits at 8 pixels, so that a whole federation takes about a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from federated import open_workspace
from federated.algorithms.averaging import Mean
from federated.config.run import RunConfig
from federated.results import evaluation
from federated.server.output import run_folder
from federated.server.output.run_folder import Row, RunFolder
from federated.server.run import run
from tests.federated.least_squares import Federated, LeastSquares

TINY: dict[str, Any] = {
    "arch": "resnet8",
    "limit_train": 60,
    "limit_test": 20,
    "image_size": 8,
    "validation": 0.1,
    "clients": 3,
    "partition": "iid",
    "rounds": 3,
    "local_epochs": 1,
    "batch_size": 8,
    "threads": 1,
    "precision": "32",
}


def take_no_pictures(patch: pytest.MonkeyPatch) -> None:
    """Have runs leave empty files where pictures belong: to draw them takes longer than a tiny run."""

    def touch(path: Path, *_: object, **__: object) -> None:
        path.touch()

    patch.setattr(run_folder, "plot_partition", touch)
    patch.setattr(run_folder, "plot_curve", touch)
    patch.setattr(evaluation, "draw", touch)


@pytest.fixture
def pictures() -> None:
    """Asked for by tests of what is drawn."""


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.fixturenames:
        take_no_pictures(monkeypatch)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., RunConfig]:
    """A tiny configuration with the fields given, in a folder of its own."""

    def build(**fields: Any) -> RunConfig:
        return RunConfig(**{**TINY, "output": tmp_path / "run", **fields})

    return build


def measured(rows: list[Row]) -> list[Row]:
    """Rows without what differs from one execution to the next."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def outcome(folder: Path) -> tuple[list[Row], dict[str, bytes]]:
    """What a run came to: its measurements and its weights, as comparable values."""
    state = RunFolder(folder).load_state()
    return measured(RunFolder(folder).history()), {n: t.numpy().tobytes() for n, t in state.weights.items()}


def run_quietly(config: RunConfig) -> tuple[list[Row], dict[str, bytes]]:
    """Carry a run to its end and return its outcome."""
    return outcome(run(config, quiet=True).folder)


def mean_of(weights: Sequence[Mapping[str, Tensor]], counts: Sequence[float]) -> dict[str, Tensor]:
    """The mean of state dicts weighted by counts, of integers the maximum."""
    mean = Mean(counts)
    for one, count in zip(weights, counts, strict=True):
        mean.add(one, count)
    return mean.result()


@pytest.fixture
def federate(tmp_path: Path) -> Iterator[Callable[..., Federated]]:
    """A federation over a least-squares problem with the fields given."""

    def build(problem: LeastSquares, **fields: Any) -> Federated:
        return Federated(problem, tmp_path / f"federation{len(list(tmp_path.iterdir()))}", fields)

    yield build
    open_workspace.close()
