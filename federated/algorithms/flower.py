"""Flower's own strategies as server steps: the one place that knows how they want to be called.

A Flower strategy is a stateful object that takes and gives messages. A server step here is a pure function over
tensors. The adapter builds the strategy anew for every round, hands it what it carried over from the last round, the
parameters and the replies, and takes both back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from federated.algorithms.averaging import Mean
from federated.algorithms.base import Combined, Replies, ServerState, Setting, Update, Weights
from federated.messages import from_record

Init = Callable[[Weights, Setting], ServerState]
Combine = Callable[[ServerState, Weights, Replies, Setting], Combined]
Builder = Callable[..., FedAvg]


class _KeptRecord(ArrayRecord):
    """An array record that is not emptied when it is read.

    Some strategies ask for that, and Flower then collects garbage after every client: 0.3 s each.
    """

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[NDArray]:
        """The arrays; the record stays as it is."""
        return super().to_numpy_ndarrays()


class _NoMessages(FedAvg):
    """Flower's base strategy without messages: who takes part is decided elsewhere."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing to send."""
        return []


class _Mean(_NoMessages):
    """The mean of ``averaging`` in the place of Flower's: a ninth of the time, in float64, in a fixed order.

    It is taken while the replies arrive; the messages that the strategy is handed after that have only their metrics.
    """

    mean: Weights

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of parameters and metrics, weighted by examples."""
        contents = [reply.content for reply in replies]
        return ArrayRecord(self.mean), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def server_step(
    strategy: type[FedAvg],
    arguments: Callable[[Setting], dict[str, Any]],
    carried: tuple[str, ...] = (),
    *,
    of_mean: bool = False,
    float64: bool = False,
) -> tuple[Init, Combine]:
    """``init`` and ``combine`` of one of Flower's strategies.

    Args:
        strategy: Flower's class.
        arguments: its arguments, from the options.
        carried: its attributes that it hands from round to round: a dictionary or a list of arrays, or None at first.
        of_mean: whether it calls its base class for the mean and uses the replies through that alone; it then gets that
            of ``averaging``, which holds one reply at a time. Any other is told of as many participants as answered.
        float64: whether it is given the replies in float64, as it goes by their distances: float32 loses those
            between models that have hardly moved.
    """
    adapted = cast(Builder, type(strategy.__name__, (strategy, _Mean if of_mean else _NoMessages), {}))

    def init(params: Weights, setting: Setting) -> ServerState:
        return {}

    def combine(state: ServerState, params: Weights, replies: Replies, setting: Setting) -> Combined:
        updates = None if of_mean else list(replies)
        if updates is not None:  # those that a rule for all replies chooses among are those that came
            setting = replace(setting, participants=len(updates))
        built = adapted(**arguments(setting))
        for name in carried:
            if name in state:
                arrays = {key: tensor.numpy() for key, tensor in state[name].items()}
                setattr(built, name, arrays if set(arrays) == set(params) else list(arrays.values()))
        nobody = cast(Grid, SimpleNamespace(get_node_ids=lambda: []))
        list(built.configure_train(setting.server_round, _KeptRecord(params), ConfigRecord(), nobody))
        if updates is None:
            mean, messages = Mean(replies.expected_examples), []
            for update in replies:
                mean.add(update.weights, update.num_examples)
                messages.append(_reply(update._replace(weights={})))
            cast(_Mean, built).mean = mean.result()
        else:
            messages = [_reply(update, float64) for update in updates]
        aggregated, metrics = built.aggregate_train(setting.server_round, messages)
        assert aggregated is not None, "too few replies, which the round has checked"
        combined = {name: tensor.to(params[name].dtype) for name, tensor in from_record(aggregated).items()}
        remembered = {name: _tensors(value) for name in carried if (value := getattr(built, name)) is not None}
        # Those of a rule that chooses are of the chosen alone, and a round reports the mean of all clients.
        means = cast(dict[str, float], dict((metrics or {}).items())) if of_mean else None
        return Combined(combined, remembered, means)

    return init, combine


def _reply(update: Update, float64: bool = False) -> Message:
    """An update in the shape of a message; a real one can only be made by a node."""
    weights = {name: tensor.double() for name, tensor in update.weights.items()} if float64 else update.weights
    metrics = MetricRecord({"num-examples": update.num_examples, **update.metrics})
    content = RecordDict({"arrays": _KeptRecord(weights), "metrics": metrics})
    return cast(Message, SimpleNamespace(content=content, has_error=lambda: False))


def _tensors(value: dict[str, np.ndarray] | list[np.ndarray]) -> Weights:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {str(key): torch.as_tensor(array) for key, array in items}
