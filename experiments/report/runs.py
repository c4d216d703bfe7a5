"""Runs as they are read from their folders: configuration, history, and what they were made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from federated.config.run import RunConfig, from_yaml
from federated.server.output import file_names
from federated.server.output.history import Row, read_history
from fps_pretrain.common import environment, yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import check_output, read_text

CLIENT_MEAN, CLIENT_WORST = "client_accuracy_mean", "client_accuracy_worst_tenth"
CLIENT_KEYS = (CLIENT_MEAN, "client_accuracy_std", CLIENT_WORST)
"""What a row says of the global model's accuracy at the clients, after every ``--per-client-every`` rounds."""

TUNED_MEAN = "fine_tuned_accuracy_mean"
TUNED_KEYS = (TUNED_MEAN, "fine_tuned_accuracy_std", "fine_tuned_accuracy_worst_tenth")
"""The same of what each client makes of that model by fine-tuning it (``--fine-tune-epochs``)."""

MAX_CONFIG = 2**20
"""Bytes of the longest config.yaml."""


RunFolders = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
"""Run folders on a command line."""


@dataclass(frozen=True)
class OfRuns:
    """What a program takes that is about run folders."""

    runs: RunFolders
    """Run folders."""

    def __post_init__(self) -> None:
        """Check that there is a run.

        Raises:
            UserError: there is none.
        """
        if not self.runs:
            raise UserError("name at least one run folder")


@dataclass(frozen=True)
class Run:
    """A run's configuration and its history.

    Attributes:
        config: the configuration as resolved.
        history: one row a round, round 0 before training first.
        folder: where it was read from.
        environment: revision, versions and machine by name, as ``common.environment`` recorded them; may be empty.
        data_digest: of its images and labels, and of who made them where clients are by that; empty if not recorded.
    """

    config: RunConfig
    history: list[Row]
    folder: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)
    data_digest: str = ""

    @property
    def rounds(self) -> list[int]:
        """Rounds after which the global model was evaluated."""
        return self.rounds_of("test_accuracy")

    @property
    def client_rounds(self) -> list[int]:
        """Rounds after which the global model was evaluated at each client; none without ``--per-client-every``."""
        return self.rounds_of(CLIENT_MEAN)

    def rounds_of(self, key: str) -> list[int]:
        """The rounds of ``values``."""
        return [row["round"] for row in self._rows(key)]

    def values(self, key: str) -> np.ndarray:
        """A quantity after each of ``rounds``, one of the clients after ``client_rounds``; NaN where it is missing."""
        return np.array([np.nan if row.get(key) is None else row[key] for row in self._rows(key)], dtype=float)

    @property
    def at_each_client(self) -> list[dict[str, float | None]]:
        """``accuracy`` and ``fine_tuned_accuracy`` at each client after the last of ``client_rounds``, or None."""
        rows = self._rows(CLIENT_MEAN)
        if not rows:
            return []
        before = rows[-1].get("client_accuracies") or []
        after = rows[-1].get("fine_tuned_accuracies") or [None] * len(before)
        return [{"accuracy": a, "fine_tuned_accuracy": b} for a, b in zip(before, after, strict=True)]

    def _rows(self, key: str) -> list[Row]:
        evaluated = CLIENT_MEAN if key in (*CLIENT_KEYS, *TUNED_KEYS) else "test_accuracy"
        return [row for row in self.history if row.get(evaluated) is not None]


def check_report_folder(folder: Path) -> None:
    """Refuse a folder that no report can be written into.

    Raises:
        UserError: as ``check_output``, or it is the folder of a run.
    """
    check_output("--output", folder)
    if (folder / file_names.CONFIG).exists():
        raise UserError(f"{folder} is the folder of a run: choose another --output")


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        text = read_text(folder / file_names.CONFIG, MAX_CONFIG)
    except UserError as error:
        raise UserError(f"{folder} is not a run folder: it has no config.yaml that can be read") from error
    try:
        return from_yaml(text)
    except UserError as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}") from error


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: it is no run folder, or nothing was evaluated yet.
    """
    run = Run(read_config(folder), read_history(folder), folder, environment.read(folder), _data_digest(folder))
    _check_history(run)
    if not run.rounds:
        raise UserError(f"{folder} has no evaluated round yet")
    return run


def _data_digest(folder: Path) -> str:
    """What ``init.yaml`` says of the data; empty where it is missing or damaged, or older than that."""
    try:
        found = yaml_file.read(folder / file_names.INIT).get(file_names.DATA_DIGEST)
    except UserError:
        return ""
    return found if isinstance(found, str) else ""


def _check_history(run: Run) -> None:
    """Refuse a history whose rows are not rounds in order, or lack what is reported of them.

    Raises:
        UserError: as said, with file and line.
    """
    for number, row in enumerate(run.history):
        why = None
        if row["round"] != number:
            why = f"it is round {row['round']}, not {number}"
        elif number > run.config.rounds:
            why = f"round {number} is beyond the last, {run.config.rounds}"
        elif type(row.get("seconds")) not in (int, float):
            why = "it has no seconds"
        if why:
            raise UserError(f"{run.folder / 'metrics.jsonl'} is damaged in line {number + 1}: {why}")
