"""Two pre-training runs in one folder exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.probing.quality import QualityProbe
from fps_pretrain.training.run import train

TINY: dict[str, Any] = {"epochs": 1, "pairs_per_epoch": 8, "batch_size": 8, "size": 16, "classes": 4, "workers": 0}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    monkeypatch.setattr(QualityProbe, "look", lambda *_: {"knn_accuracy": 0.0, "pair_retrieval": 0.0})
    return PretrainConfig(**TINY, run_dir=tmp_path / "run", output=tmp_path / "out.pt")


def everything(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_another_process_works_in_is_left_alone(
    config: PretrainConfig, tmp_path: Path, resume: bool
) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        before = everything(tmp_path / "run")
        with pytest.raises(UserError, match="run is being worked on by another process"):
            train(PretrainConfig(**{**vars(config), "resume": resume}))
        assert everything(tmp_path / "run") == before
    assert train(config) == 0  # what the lock leaves is no other run


def test_a_finished_run_given_again_writes_nothing(
    config: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may lie in a folder that is read-only."""
    assert train(config) == 0
    before = everything(tmp_path)
    capsys.readouterr()
    with locked(tmp_path / "run"):
        assert train(config) == 0
    assert "finished: " in capsys.readouterr().err
    assert everything(tmp_path) == before
    with pytest.raises(UserError, match="--seed"):
        train(PretrainConfig(**{**vars(config), "seed": 5}))
