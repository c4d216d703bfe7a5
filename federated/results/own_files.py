"""What in a run's folder is the run's, so that no program's output takes its place."""

from __future__ import annotations

from pathlib import Path

from federated.results import evaluation
from federated.server.output import client_models, loggers, model_file
from fps_pretrain.common import environment, trackers
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import LOCK

MARKS = ("config.yaml", "metrics.jsonl")
"""Files by which a run's folder is known."""

OWN = frozenset(
    (
        *MARKS,
        *("init.yaml", "partition.npz", "partition.png", "state.pt", "secret", "clients", "curve.png", "log.txt", LOCK),
        *(model_file.MODEL, model_file.BEST, client_models.FOLDER, loggers.TENSORBOARD),
        *(environment.FILE, evaluation.FILE, evaluation.PICTURE, trackers.MLFLOW_ID, "mlflow.db", "wandb"),
    )
)
"""Names of a run's files and folders; ``federated.server.output.run_folder`` says what they are."""


def check_not_own(flag: str, path: Path) -> None:
    """Refuse a place for a program's output that belongs to a run.

    Args:
        flag: what messages call it, such as ``--output``.
        path: where the output is to be.

    Raises:
        UserError: it is one of a run folder's own files, or lies in one of its own folders.
    """
    place = path.parent.resolve() / path.name  # a link of that name is replaced, not followed
    for folder in place.parents:
        if place.relative_to(folder).parts[0] in OWN and all((folder / mark).is_file() for mark in MARKS):
            raise UserError(f"{flag} {path} belongs to the run in {folder}: name another file")
