"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from torch import Tensor

from federated.algorithms.averaging import weighted_sum
from federated.client.training import Client, ClientUpdate, Weights, local_sgd
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig
from federated.messages import from_record
from federated.server.cohort import ServerState


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Federated averaging has no options of its own."""

    mean_only: ClassVar[bool] = True


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD."""
    return local_sgd(client, weights)


def build_strategy(config: RunConfig) -> FedAvg:
    """The mean of the clients' parameters, weighted by their numbers of examples."""
    return FedAvg()


class FedAvg(FlowerFedAvg):
    """Flower's FedAvg with a mean that takes a ninth of the time, and what the strategies above it need.

    Those of Flower's strategies that extend its FedAvg are extended here as ``class FedAdam(FlowerFedAdam, FedAvg)``:
    their calls of ``super()`` then come here. Others override ``combine``.

    Args:
        arguments: Flower's; all nodes of the grid train, for ``strategy.Federation`` has chosen them.
    """

    carried: ClassVar[tuple[str, ...]] = ()
    """Attributes that a strategy hands from round to round: None, a dictionary or a list of arrays or tensors."""

    one_record: ClassVar[bool] = True
    """Whether replies hold weights and no other arrays, which Flower's check of them then demands."""

    def __init__(self, **arguments: Any) -> None:
        all_nodes = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1}
        super().__init__(**{**arguments, **all_nodes})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node of the grid, with records of its own: clients must not see each other's changes."""
        return [
            Message(
                RecordDict(
                    {
                        self.arrayrecord_key: arrays.copy(),
                        self.configrecord_key: ConfigRecord({**config, "server-round": server_round}),
                    }
                ),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
                group_id=str(server_round),
            )
            for node in grid.get_node_ids()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next parameters and the mean of the clients' metrics, weighted by examples; None without replies."""
        valid, _ = self._check_and_log_replies(replies, is_train=True, validate=self.one_record)
        if not valid:
            return None, None
        metrics = self.train_metrics_aggr_fn([reply.content for reply in valid], self.weighted_by_key)
        return ArrayRecord(self.combine(valid)), metrics

    def combine(self, replies: list[Message]) -> Weights:
        """The mean of the clients' parameters, weighted by their numbers of examples."""
        counts = examples_of(replies)
        return weighted_sum(arrays_of(replies), [count / sum(counts) for count in counts])

    def state_dict(self) -> ServerState:
        """What ``carried`` names, as tensors."""
        values = {name: getattr(self, name) for name in self.carried}
        return {
            name: {
                str(key): torch.as_tensor(array)
                for key, array in (value.items() if isinstance(value, dict) else enumerate(value))
            }
            for name, value in values.items()
            if value is not None
        }

    def load_state_dict(self, state: ServerState) -> None:
        """Go on from what ``state_dict`` returned."""
        for name in self.carried:
            if name in state:
                setattr(self, name, dict(state[name]))


class ChangesFromStart(FedAvg):
    """What strategies share that combine the clients' changes of a model: they remember it, as ``origin``."""

    origin: Weights

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages."""
        self.origin = from_record(arrays)
        return super().configure_train(server_round, arrays, config, grid)


def arrays_of(replies: list[Message], name: str = "arrays") -> Iterator[Weights]:
    """The state dicts under ``name`` in the replies, one after the other: many clients' at once may not fit."""
    return (from_record(reply.content.array_records[name]) for reply in replies)


def examples_of(replies: list[Message]) -> list[int]:
    """How many examples each reply stands for."""
    return [int(str(reply.content.metric_records["metrics"]["num-examples"])) for reply in replies]


def as_numpy(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: tensor.numpy() for name, tensor in state.items()}
