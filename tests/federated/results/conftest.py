"""One finished tiny run with images beside it, for all tests of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from federated.config.run import RunConfig
from federated.data import sets
from federated.server.run import run
from tests.federated.conftest import TINY


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The configuration of a run that is finished; tests must not write into its folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    made = RunConfig(**{**TINY, "output": folder, "validation": 0.3, "keep_best": True})
    run(made, quiet=True)
    return made


@pytest.fixture(scope="session")
def photos(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run's test images as PNG files, 00.png in the order of the test set."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(sets.load(config).test.images):
        cv2.imwrite(str(folder / f"{number:02}.png"), np.ascontiguousarray(image[:, :, ::-1]))
    return folder


@pytest.fixture
def copied(config: RunConfig, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the run folder that a test may change."""

    def copy() -> Path:
        import shutil

        return Path(shutil.copytree(config.folder, tmp_path / "copied"))

    return copy
