"""Runs as they are compared: read from their folders and grouped into arms, which differ in more than the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from federated.config.run import FREE_ON_RESUME, RunConfig, from_yaml, init_name
from fps_pretrain.common import environment
from fps_pretrain.common.errors import UserError

CLIENT_KEYS = ("client_accuracy_mean", "client_accuracy_std", "client_accuracy_worst_tenth")
"""What a row says of the global model's accuracy at the clients, after every ``--per-client-every`` rounds."""

Row = dict[str, Any]
"""A line of metrics.jsonl, which describes one round."""


@dataclass(frozen=True)
class Run:
    """A run's configuration and its history.

    Attributes:
        config: the configuration as resolved.
        history: one row a round, round 0 before training first.
        folder: where it was read from.
        environment: revision, versions and machine by name, as ``common.environment`` recorded them; may be empty.
    """

    config: RunConfig
    history: list[Row]
    folder: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def rounds(self) -> list[int]:
        """Rounds after which the global model was evaluated."""
        return [row["round"] for row in self._rows("test_accuracy")]

    @property
    def client_rounds(self) -> list[int]:
        """Rounds after which the global model was evaluated at each client; none without ``--per-client-every``."""
        return [row["round"] for row in self._rows(CLIENT_KEYS[0])]

    def values(self, key: str) -> np.ndarray:
        """A quantity after each of ``rounds``, or of ``client_rounds`` for ``CLIENT_KEYS``; NaN where it is missing."""
        rows = self._rows(CLIENT_KEYS[0] if key in CLIENT_KEYS else "test_accuracy")
        return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)

    def _rows(self, key: str) -> list[Row]:
        return [row for row in self.history if row.get(key) is not None]


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only, in the order of their seeds.

    Raises:
        UserError: the runs were not evaluated after the same rounds.
    """

    label: str
    runs: list[Run]

    def __post_init__(self) -> None:
        """Check that all runs were evaluated after the same rounds."""
        if len({(*run.rounds, None, *run.client_rounds) for run in self.runs}) > 1:
            raise UserError(f"the runs of '{self.label}' have different rounds: finish them first")

    @property
    def seeds(self) -> list[int]:
        """The runs' seeds."""
        return [run.config.seed for run in self.runs]

    @property
    def rounds(self) -> list[int]:
        """Rounds after which the runs were evaluated."""
        return self.runs[0].rounds

    @property
    def client_rounds(self) -> list[int]:
        """Rounds after which they were evaluated at each client."""
        return self.runs[0].client_rounds

    def values(self, key: str) -> np.ndarray:
        """A quantity of all runs: ``(seeds, rounds)``, or ``(seeds, client_rounds)`` for ``CLIENT_KEYS``."""
        return np.stack([run.values(key) for run in self.runs])


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: it is no run folder, or nothing was evaluated yet.
    """
    # Imports PyTorch, for which --help and a wrong flag must not wait.
    from federated.server.run_folder import read_history

    try:
        config = from_yaml((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.yaml") from error
    run = Run(config, read_history(folder), folder, environment.read(folder))
    if not run.rounds:
        raise UserError(f"{folder} has no evaluated round yet")
    return run


def group(runs: Sequence[Run]) -> list[Arm]:
    """Group runs into arms, in the order in which each arm's first run came.

    An arm's label names the fields in which the arms differ.

    Raises:
        UserError: the runs of an arm were evaluated after different rounds.
    """
    ignored = {"seed", *FREE_ON_RESUME}
    arms: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for run in runs:
        key = tuple((name, value) for name, value in asdict(run.config).items() if name not in ignored)
        arms.setdefault(key, []).append(run)
    names = [name for name, _ in next(iter(arms))]
    differing = [name for i, name in enumerate(names) if len({key[i] for key in arms}) > 1]
    return [
        Arm(_label(dict(key), differing), sorted(members, key=lambda run: run.config.seed))
        for key, members in arms.items()
    ]


def _label(values: dict[str, Any], differing: Sequence[str]) -> str:
    """The fields in which arms differ, with an arm's values; its initialisation where no field differs."""
    shown = [init_name(values["init"])] if "init" in differing or not differing else []
    shown += [f"{name.replace('_', '-')} {values[name]}" for name in differing if name != "init"]
    return ", ".join(shown)
