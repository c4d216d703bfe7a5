"""What in a run's folder is the run's, so that no program's output takes its place."""

from __future__ import annotations

from pathlib import Path

from federated.server.output import file_names
from fps_pretrain.common.errors import UserError

MARKS = (file_names.CONFIG, file_names.METRICS)
"""Files by which a run's folder is known."""


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
        if place.relative_to(folder).parts[0] in file_names.ALL and all((folder / mark).is_file() for mark in MARKS):
            raise UserError(f"{flag} {path} belongs to the run in {folder}: name another file")
