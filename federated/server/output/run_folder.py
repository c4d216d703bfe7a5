"""A run's folder: everything needed to resume, to report and to reproduce it. ``file_names`` says what is in it.

A folder is made aside and renamed, so that it is complete when it appears. From then on a round's line is written
before the state. A run that is killed between the two cuts the line off and repeats the round.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from torch import Tensor

from federated.algorithms.base import ServerState
from federated.client.parts import keeps_own_part
from federated.client.state import ClientStates
from federated.config.run import RunConfig, differences, from_yaml, to_yaml, without_secrets
from federated.data.partition import Partition
from federated.data.partition_file import load_partition, save_partition
from federated.data.partition_plot import plot_partition
from federated.data.sets import Dataset
from federated.server.output import client_models, file_names, model_file
from federated.server.output.curve import plot_curve
from federated.server.output.history import Row, read_history
from federated.weights import Weights
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import (
    check_output,
    create_folder_atomically,
    locked,
    read_text,
    remove_partials,
    write_text_atomically,
)
from fps_pretrain.models.checksum import with_checksum
from fps_pretrain.models.tensor_file import read_with_checksum, write_atomically

STATE_FORMAT = "fps-run"
VERSION = 2

SECRET_BITS = 128
"""Length of a secret that is not given: too long to be guessed."""


@dataclass(frozen=True)
class State:
    """A run after ``round`` rounds.

    Attributes:
        round: rounds completed.
        weights: the global model's state dict.
        init_digest: the encoder it began with.
        data_digest: the data it began with.
        client_rounds: for each client the last round in which its reply counted, 0 before any; int64 ``(clients,)``.
        server: what the strategy carries from round to round.
        partition_digest: the partition it began with.
        run: which run it is, so that clients' files of another are noticed; runs of earlier versions have none.
    """

    round: int
    weights: Weights
    init_digest: str
    data_digest: str
    client_rounds: Tensor
    server: ServerState = field(default_factory=dict)
    partition_digest: str = ""
    run: str = ""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run that exists; made by ``create`` or ``find``."""

    path: Path

    @classmethod
    def find(cls, path: Path, config: RunConfig, resume: bool = True) -> RunFolder | None:
        """The folder of this configuration, or None if there is none or an empty folder.

        Without ``resume`` it is None for any run's.

        Raises:
            UserError: the path is no run, or the run of another configuration. It is left as it is.
        """
        check_output("--output", path)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
        if not (path / file_names.CONFIG).is_file():
            raise UserError(f"{path} exists and is not a run: choose another --output or remove it")
        if not resume:
            return None
        advice = "choose another --output (run_fl.py --no-resume keeps this one aside)"
        try:
            saved = cls(path).config()
        except UserError as error:
            raise UserError(f"{path} exists and is not a run ({error}): {advice}") from error
        if differing := differences(saved, without_secrets(config)):
            raise UserError(f"{path} is a run of another configuration, with {', '.join(differing)}: {advice}")
        folder, given = cls(path), config.dp_secret
        if given is not None and given != folder.secret():
            raise UserError(f"{path} began with another --dp-secret: {advice}")
        return folder

    @classmethod
    def create(cls, path: Path, config: RunConfig, data: Dataset, partition: Partition, state: State) -> RunFolder:
        """Write a new run before its first round.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            with create_folder_atomically(path) as partial:
                folder = cls(partial)
                write_text_atomically(partial / file_names.CONFIG, to_yaml(config, for_clients=True))
                if config.dp != "none":
                    folder._write_secret(config.dp_secret)
                (partial / file_names.METRICS).touch()
                save_partition(partial / file_names.PARTITION, partition)
                plot_partition(partial / file_names.PARTITION_PICTURE, partition, data.train.labels, data.classes)
                folder.save_state(state)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise UserError(f"another process has begun {path} meanwhile: choose another --output") from error
            raise UserError(f"cannot write the run folder {path}: {error.strerror}") from error
        return cls(path)

    def config(self) -> RunConfig:
        """The configuration that the run began with, as resolved."""
        return from_yaml(read_text(self.path / file_names.CONFIG))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from working on this run; see ``common.files.locked``."""
        return locked(self.path)

    @property
    def state_file(self) -> Path:
        """The last completed round."""
        return self.path / file_names.STATE

    @property
    def partition_file(self) -> Path:
        """Which client holds which example."""
        return self.path / file_names.PARTITION

    def secret(self) -> int:
        """The number that only the server knows, from which the noise of ``--dp`` is drawn.

        Raises:
            UserError: the run has none.
        """
        path = self.path / file_names.SECRET
        try:
            number, *check = read_text(path).split()
            if check and check != [_check_of(number)]:
                raise ValueError("the check does not fit the number")
            return int(number)
        except (UserError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged: choose another --output and start again") from error

    def _write_secret(self, given: int | None) -> None:
        secret = secrets.randbits(SECRET_BITS) if given is None else given
        descriptor = os.open(self.path / file_names.SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n{_check_of(str(secret))}\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def client_states(self) -> Path:
        """Where clients keep what they remember."""
        return self.path / file_names.CLIENT_STATES

    @property
    def training_data(self) -> Path:
        """Where worker processes find the training examples while the run goes on (``data.memmap``)."""
        return self.path / ".training-data.partial"

    def load_partition(self) -> Partition:
        """The partition the run began with."""
        return load_partition(self.partition_file)

    def load_state(self) -> State:
        """The last completed round.

        Raises:
            UserError: state.pt is missing, damaged or of another version.
        """
        path = self.state_file
        content = {"run": "", **read_with_checksum(path)}
        if content.get("format") != STATE_FORMAT or content.get("version") != VERSION:
            raise UserError(f"{path} is not the state of a run, version {VERSION}")
        if missing := [one.name for one in fields(State) if one.name not in content]:
            raise UserError(f"{path} is damaged or of an earlier version: it lacks {', '.join(missing)}")
        return State(**{one.name: content[one.name] for one in fields(State)})

    def save_state(self, state: State) -> None:
        """Replace state.pt, atomically."""
        payload = {"format": STATE_FORMAT, "version": VERSION, **vars(state)}
        write_atomically(self.state_file, with_checksum(payload))

    def append(self, row: Row) -> None:
        """Add a round's line to metrics.jsonl, on disk before this returns; numbers that are not finite become null."""
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        with (self.path / file_names.METRICS).open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def history(self) -> list[Row]:
        """The rows of metrics.jsonl."""
        return read_history(self.path)

    def history_until(self, last_round: int) -> list[Row]:
        """The rows of metrics.jsonl up to that of ``last_round``; before the first round there may be none.

        Raises:
            UserError: some are missing.
        """
        rows = [row for row in self.history() if row["round"] <= last_round]
        if last_round and [row["round"] for row in rows] != list(range(last_round + 1)):
            raise UserError(
                f"{self.path / 'metrics.jsonl'} lacks rounds that state.pt has: remove the run to start again"
            )
        return rows

    def rewind(self, last_round: int) -> list[Row]:
        """Cut metrics.jsonl after ``last_round``, remove what interrupted writes left, and return the rows kept.

        Raises:
            UserError: rows up to ``last_round`` are missing. Nothing is changed then.
        """
        rows = self.history_until(last_round)
        remove_partials(self.path)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if text != (self.path / file_names.METRICS).read_text():
            write_text_atomically(self.path / file_names.METRICS, text)
        client_models.rewind(self.path, last_round)
        return rows

    def extend(self, rounds: int) -> None:
        """Give a run that was begun with fewer rounds as many; what was made at its end is made anew."""
        saved = self.config()
        if saved.rounds < rounds:
            # The configuration comes last: before it the run is one that has its end to write.
            for name in (file_names.MODEL, file_names.EVALUATION, file_names.CONFUSION):
                (self.path / name).unlink(missing_ok=True)
            write_text_atomically(
                self.path / file_names.CONFIG, to_yaml(replace(saved, rounds=rounds), for_clients=True)
            )

    @property
    def has_model(self) -> bool:
        """Whether the final model was written, the last thing a run does."""
        return (self.path / file_names.MODEL).is_file()

    def keep_best(self, config: RunConfig, classes: tuple[str, ...], state: State) -> None:
        """With ``--keep-best``, write best.pt if the last completed round is the best so far."""
        if config.keep_best:
            model_file.keep_best(self.path, config, classes, self.history(), state.round, state.weights)

    def finish(self, config: RunConfig, classes: tuple[str, ...], state: State) -> None:
        """Draw curve.png, remove the clients' states, and write model.pt.

        With ``--bn-stats local`` or ``--personal head`` the states stay: they belong to the clients' final models.
        """
        plot_curve(self.path / file_names.CURVE, self.history(), title=self.path.name)
        if keeps_own_part(config):
            states = ClientStates(self.client_states, state.run)
            for client, last_round in enumerate(state.client_rounds.tolist()):
                states.keep(client, last_round)
        else:  # no later command reads them
            shutil.rmtree(self.client_states, ignore_errors=True)
        model_file.write(self.path / file_names.MODEL, config, classes, state.round, state.weights)


def _check_of(number: str) -> str:
    """By which a secret that was changed is noticed; it stays in the secret's file."""
    return hashlib.sha256(number.encode()).hexdigest()
