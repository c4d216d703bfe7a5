"""Where Weights & Biases and MLflow keep what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fps_pretrain.common.trackers import known_mlflow_run, mlflow_uri, remember_mlflow_run


def test_mlflow_keeps_a_run_in_its_folder_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for unset in (None, ""):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if unset is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", unset)
        assert mlflow_uri(Path("runs", "a")) == f"sqlite:///{tmp_path.resolve()}/runs/a/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example:5000")
    assert mlflow_uri(Path("runs", "a")) == "https://tracking.example:5000"


def test_a_resumed_run_goes_on_under_the_id_that_it_was_given(tmp_path: Path) -> None:
    assert known_mlflow_run(tmp_path) is None
    remember_mlflow_run(tmp_path, "0123abc")
    assert known_mlflow_run(tmp_path) == "0123abc"
