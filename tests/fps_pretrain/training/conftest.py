"""Runs that several tests compare with."""

import pytest

from tests.fps_pretrain.training.runs import run, without_probe


@pytest.fixture
def no_probe(monkeypatch):
    without_probe(monkeypatch)


@pytest.fixture(scope="session")
def baseline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_probe(patch)
        return run(tmp_path_factory.mktemp("baseline"))


@pytest.fixture(scope="session")
def moco_baseline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_probe(patch)
        return run(tmp_path_factory.mktemp("moco"), method="moco", method_options=("queue=16",))
