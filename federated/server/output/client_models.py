"""The clients' models of some rounds, kept in the run folder for ``experiments.analyses``.

    RUN/client_models/round-000010.pt

holds what ``ClientModels`` has, as a plain dictionary that ``torch.load(weights_only=True)`` reads. At most ``KEEP``
files are kept, spread over the rounds: their number, not the run's length, bounds the disk they take, which is ``KEEP``
times as many models as a round has replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor

from federated.server.output import file_names
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checksum import why_misfit, with_checksum
from fps_pretrain.models.tensor_file import read_with_checksum, write_atomically

KEEP = 5
"""Rounds that are kept at most."""

_NAME = re.compile(r"round-(\d+)\.pt", re.ASCII)


@dataclass(frozen=True)
class ClientModels:
    """One round's models: state dicts on the CPU.

    Attributes:
        round: counted from 1.
        clients: whose replies counted, in client order ``(K,)``.
        examples: how many examples stand behind each reply ``(K,)``.
        start: the global model that the clients started from.
        updates: what each client trained it to ``(K,)``: whole weights, not differences. Buffers may be missing where
            clients keep them (``--bn-stats local`` and ``server``).
        result: the global model after the round.
    """

    round: int
    clients: list[int]
    examples: list[int]
    start: Mapping[str, Tensor]
    updates: Sequence[Mapping[str, Tensor]]
    result: Mapping[str, Tensor]


def save(run_folder: Path, models: ClientModels, keep: int = KEEP) -> Path:
    """Write a round's models into a run folder, then remove what is more than ``keep`` rounds.

    Of three neighbouring rounds the middle one goes whose neighbours are closest to each other, the earliest of equals:
    the first and the last round stay, and what stays is spread over the run.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    content = {field.name: getattr(models, field.name) for field in fields(ClientModels)}
    content["start"], content["result"] = dict(models.start), dict(models.result)
    content["updates"] = [dict(update) for update in models.updates]
    path = _path(run_folder, models.round)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, with_checksum(content))
    kept = rounds(run_folder)
    while len(kept) > max(keep, 2):
        middle = min(range(1, len(kept) - 1), key=lambda i: kept[i + 1] - kept[i - 1])
        _path(run_folder, kept.pop(middle)).unlink()
    return path


def _path(run_folder: Path, number: int) -> Path:
    return run_folder / file_names.CLIENT_MODELS / f"round-{number:06d}.pt"


def rounds(run_folder: Path) -> list[int]:
    """The rounds that a run folder has models of, in order; none without ``--keep-clients-every``."""
    found = (_NAME.fullmatch(path.name) for path in (run_folder / file_names.CLIENT_MODELS).glob("round-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def rewind(run_folder: Path, last_round: int) -> None:
    """Remove the models of rounds after ``last_round``, which an interrupted run will do again."""
    for number in rounds(run_folder):
        if number > last_round:
            _path(run_folder, number).unlink()


def load(run_folder: Path, number: int) -> ClientModels:
    """The models of a round.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    path = _path(run_folder, number)
    content = read_with_checksum(path)
    if missing := {field.name for field in fields(ClientModels)} - content.keys():
        raise UserError(f"{path} does not hold the clients' models of a round: it lacks {', '.join(sorted(missing))}")
    models = ClientModels(**{field.name: content[field.name] for field in fields(ClientModels)})
    if why := _why_damaged(models, number):
        raise UserError(f"{path} is damaged: {why}")
    return models


def _why_damaged(models: ClientModels, number: int) -> str | None:
    """What keeps a file's content, of any types, from being the models of that round; None if it is."""
    clients, examples, updates = models.clients, models.examples, models.updates
    if models.round != number or not isinstance(updates, list) or not updates:
        return f"it is not of round {number}"
    for numbers in (clients, examples):
        if not isinstance(numbers, list) or len(numbers) != len(updates) or not all(type(n) is int for n in numbers):
            return "it does not say whose models it holds"
    if not isinstance(models.result, dict) or not all(isinstance(t, Tensor) for t in models.result.values()):
        return "it has no model of the round"
    for weights in (models.start, models.result, *updates):
        names = set(weights) & set(models.result) if isinstance(weights, dict) else set()
        if not names:
            return "a model has no weights"
        if why := why_misfit(weights, {name: models.result[name] for name in names}):
            return why
    return None
