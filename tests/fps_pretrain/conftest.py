"""Shared by the tests of pre-training."""

from pathlib import Path

import pytest

from tests.fps_pretrain.probing.few_images import few_images


@pytest.fixture(scope="session")
def probe_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``--probe-data``, for runs whose accuracy nobody looks at."""
    return few_images(tmp_path_factory.mktemp("probe-data"))
