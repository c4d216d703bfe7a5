from __future__ import annotations

import pytest

from federated.data import sets


@pytest.fixture(autouse=True)
def forget() -> None:
    """Data sets that an earlier test has loaded."""
    sets._load.cache_clear()
