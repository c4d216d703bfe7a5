"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from torch import Tensor

from federated.averaging import weighted_sum
from federated.config import RunConfig
from federated.local import Client, ClientUpdate, Weights, local_sgd
from federated.records import from_record
from federated.strategy import ServerState

ALL_NODES: dict[str, Any] = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1}
"""Arguments of Flower's strategies: all nodes of the grid train, for ``strategy.Federation`` has chosen them."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD."""
    return local_sgd(client, weights)


def build_strategy(config: RunConfig) -> FedAvg:
    """The mean of the clients' parameters, weighted by their numbers of examples."""
    return FedAvg(**ALL_NODES)


class FedAvg(FlowerFedAvg):
    """Flower's FedAvg with a mean that takes a ninth of the time, and what the strategies above it need.

    Those of Flower's strategies that extend its FedAvg are extended here as ``class FedAdam(FlowerFedAdam, FedAvg)``:
    their calls of ``super()`` then come here. ``carried`` names the attributes that such a strategy hands from round
    to round: None, a dictionary or a list of arrays or tensors.
    """

    carried: ClassVar[tuple[str, ...]] = ()

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
        """The mean of the clients' parameters and metrics, weighted by their numbers of examples."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        counts = examples_of(valid)
        mean = weighted_sum(arrays_of(valid), [count / sum(counts) for count in counts])
        return ArrayRecord(mean), self.mean_metrics(valid)

    def mean_metrics(self, replies: list[Message]) -> MetricRecord:
        """The clients' metrics, averaged by their numbers of examples."""
        return self.train_metrics_aggr_fn([reply.content for reply in replies], self.weighted_by_key)

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


def arrays_of(replies: list[Message], name: str = "arrays") -> Iterator[Weights]:
    """The state dicts under ``name`` in the replies, one after the other: many clients' at once may not fit."""
    return (from_record(reply.content.array_records[name]) for reply in replies)


def examples_of(replies: list[Message]) -> list[int]:
    """How many examples each reply stands for."""
    return [int(str(reply.content.metric_records["metrics"]["num-examples"])) for reply in replies]


def as_numpy(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: tensor.numpy() for name, tensor in state.items()}
