"""The one check of what clients send: a reply is decoded and checked here, once, or it costs the client its round.

Nothing of a reply is believed. Its records must be those that were asked for, its arrays of the names, shapes, types
and sizes of the model, its numbers finite and within what is possible. The bytes of an array are read only after their
header and length have been found to be exactly what NumPy writes for that shape and type: no parser sees them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from federated.algorithms.base import Algorithm, Update
from federated.client.failures import DIVERGED
from federated.messages import read_array
from fps_pretrain.common.errors import printable
from fps_pretrain.models.checksum import LARGEST

TRAINING_METRICS = ("train_loss", "train_accuracy")
"""What every client reports of its training."""

LONGEST_REASON = 300
"""Characters of a client's error that are kept."""

LONGEST_DETAILS = 16_384
"""Those of it that go into the log."""


class BadReply(Exception):
    """A reply that cannot be used; the message says why, in one line."""


class DivergedReply(BadReply):
    """A client's training has diverged: it says so, or sends numbers that are not finite or too large."""


@dataclass(frozen=True)
class Expected:
    """What a reply to a train message must hold.

    Args:
        weights: the entries of the model's state dict that clients send, by name, in the model's order.
        parameters: which of them are parameters; state dicts beside the weights have these.
        extra: names of the state dicts beside the weights.
        metrics: names of the numbers beside ``num-examples``.
    """

    weights: Mapping[str, Tensor]
    parameters: frozenset[str]
    extra: tuple[str, ...]
    metrics: tuple[str, ...]

    @classmethod
    def of(
        cls, algorithm: Algorithm, state_dict: Mapping[str, Tensor], parameters: frozenset[str], buffers: bool
    ) -> Expected:
        """What clients of ``algorithm`` send; without ``buffers`` they keep those to themselves."""
        weights = {name: tensor for name, tensor in state_dict.items() if buffers or name in parameters}
        return cls(weights, parameters, algorithm.received, (*TRAINING_METRICS, *algorithm.metrics))

    def read(self, reply: Message, most_examples: int) -> Update:
        """The reply, decoded.

        Args:
            reply: a client's answer, an error among them.
            most_examples: how many training examples the client has.

        Raises:
            BadReply: it is an error, or not what was asked for.
        """
        if reply.has_error():
            raise (DivergedReply if reply.error.code == DIVERGED else BadReply)(reason_of(reply))
        if not reply.has_content():
            raise BadReply("sent nothing")
        content = reply.content
        if set(content.array_records) != {"arrays", *self.extra}:
            raise BadReply(f"sent other arrays than {', '.join(('arrays', *self.extra))}")
        if set(content.metric_records) != {"metrics"} or content.config_records:
            raise BadReply("sent other records than arrays and metrics")
        metrics = self._read_metrics(content.metric_records["metrics"], most_examples)
        weights = _read_arrays("arrays", content.array_records["arrays"], self.weights)
        parameters = {name: tensor for name, tensor in self.weights.items() if name in self.parameters}
        extra = {name: _read_arrays(name, content.array_records[name], parameters) for name in self.extra}
        count = int(metrics.pop("num-examples"))
        return Update(weights, count, metrics, extra)

    def _read_metrics(self, record: MetricRecord, most_examples: int) -> dict[str, float]:
        if set(record) != {"num-examples", *self.metrics}:
            raise BadReply(f"sent other metrics than {', '.join(('num-examples', *self.metrics))}")
        for name in self.metrics:
            value = record[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise BadReply(f"sent a {name} that is not a finite number")
            if not 0 <= value <= (1 if name == "train_accuracy" else LARGEST):
                raise (DivergedReply if value > LARGEST else BadReply)(f"sent a {name} of {value:g}, which cannot be")
        count = record["num-examples"]
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most_examples:
            raise BadReply(f"sent a number of examples that is not a whole number from 1 to {most_examples}")
        return {name: float(record[name]) for name in self.metrics} | {"num-examples": count}  # type: ignore[arg-type]


def _read_arrays(kind: str, record: ArrayRecord, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a record in the order of ``expected``.

    Raises:
        BadReply: names, shapes, types, sizes or values are not those of a model's weights.
    """
    if set(record) != set(expected):
        missing = next((name for name in expected if name not in record), None)
        detail = f"{missing} is missing" if missing else "with names that are not the model's"
        raise BadReply(f"sent {kind} of another model: {detail}")
    tensors = {}
    for name, like in expected.items():
        tensor = read_array(record[name], like)
        if tensor is None:
            raise BadReply(f"sent {kind} of another model: {name} has another shape, type or size")
        tensors[name] = tensor
    _check_values(kind, tensors)
    return tensors


def _check_values(kind: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite or too large, and variances and counts below zero.

    Raises:
        BadReply: there are such; the message names the first.
    """
    for name, (least, greatest) in _extremes(tensors).items():
        if tensors[name].is_floating_point():
            if not (math.isfinite(least) and math.isfinite(greatest)):
                raise DivergedReply(f"sent {kind} that are not finite, {name} first")
            if max(-least, greatest) > LARGEST:
                raise DivergedReply(f"sent {kind} beyond {LARGEST:g}, {name} first")
            if name.endswith("running_var") and least < 0:
                raise BadReply(f"sent {kind} with a negative variance, {name}")
        elif least < 0:
            raise BadReply(f"sent {kind} with a negative count, {name}")


def _extremes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of each tensor that has any; not numbers where one of its values is not.

    Every value is read once, and tensors of one type are taken together: there are a hundred small ones.
    """
    alike: dict[torch.dtype, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            alike.setdefault(tensor.dtype, []).append(name)
    found: dict[str, tuple[float, float]] = {}
    for names in alike.values():
        least, greatest = zip(*(torch.aminmax(tensors[name]) for name in names), strict=True)
        values = zip(torch.stack(least).tolist(), torch.stack(greatest).tolist(), strict=True)
        found.update(zip(names, values, strict=True))
    return {name: found[name] for name in tensors if name in found}


NEVER_NEGATIVE = ("squares", "count", "counts", "batches")
"""Sums that cannot be below 0, by the last part of their names."""


def read_sums(answer: RecordDict, like: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """The sums that a client was asked for before the first round.

    Args:
        answer: the client's answer.
        like: tensors of the names, shapes and types that it must have.
        most: what no count can exceed: the client's pixels.

    Raises:
        BadReply: it holds others, or numbers that cannot be.
    """
    if set(answer.array_records) != {"arrays"}:
        raise BadReply("sent other arrays than its sums")
    record = answer.array_records["arrays"]
    if set(record) != set(like):
        raise BadReply("sent sums of another model")
    sums = {name: read_array(record[name], tensor) for name, tensor in like.items()}
    for name, tensor in sums.items():
        if tensor is None:
            raise BadReply(f"sent {name} of another shape, type or size")
        kind = name.rpartition(".")[2]
        least = 0 if kind in NEVER_NEGATIVE else -LARGEST
        greatest = most if kind in ("count", "counts", "batches") else LARGEST
        if not ((tensor >= least) & (tensor <= greatest)).all() or (kind == "count" and 0 < tensor < 2):
            raise BadReply(f"sent a {name} that cannot be")
    return {name: tensor for name, tensor in sums.items() if tensor is not None}


def details_of(reply: Message) -> str:
    """An error reply's reason, line by line as ``printable``, cut to size: for the log."""
    lines = (reply.error.reason or "")[:LONGEST_DETAILS].splitlines()
    return "\n".join(map(printable, lines))


def reason_of(reply: Message) -> str:
    """The last line of an error reply's reason, which may be a traceback; printable, cut to size."""
    lines = (reply.error.reason or "").strip().splitlines()
    return printable(lines[-1])[:LONGEST_REASON] if lines else "no reason given"
