"""Weights & Biases and MLflow, as far as both programs use them in one way."""

from __future__ import annotations

import os
from pathlib import Path

from fps_pretrain.common.errors import check_installed
from fps_pretrain.common.files import write_text_atomically

MLFLOW_ID = "mlflow-run"
"""File inside the run folder with the id that MLflow gave the run."""
MLFLOW_STORE = "mlflow.db"
"""File inside the run folder in which MLflow keeps the run, where no server is named."""


def check_trackers(*, wandb: bool = False, mlflow: bool = False) -> None:
    """Refuse ``--wandb`` and ``--mlflow`` where they are not installed.

    Raises:
        UserError: there is no wandb, or no mlflow.
    """
    if wandb:
        check_installed("--wandb", "Weights & Biases", "wandb", extra="wandb")
    if mlflow:
        check_installed("--mlflow", "MLflow", "mlflow", extra="mlflow")


def mlflow_uri(folder: Path) -> str:
    """Where MLflow keeps runs: at ``MLFLOW_TRACKING_URI``, or without it in the run folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / MLFLOW_STORE}"


def known_mlflow_run(folder: Path) -> str | None:
    """The id that MLflow gave the run of this folder, which a resumed run goes on as; None for a new run."""
    path = folder / MLFLOW_ID
    return path.read_text() if path.is_file() else None


def remember_mlflow_run(folder: Path, identifier: str) -> None:
    """Keep the id that MLflow gave the run of this folder."""
    write_text_atomically(folder / MLFLOW_ID, identifier)
