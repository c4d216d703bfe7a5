"""Shared by the tests of comparisons."""

import pytest

from tests.federated.conftest import take_no_pictures


@pytest.fixture(autouse=True)
def _runs_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    take_no_pictures(monkeypatch)
