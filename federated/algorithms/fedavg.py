"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from torch import Tensor

from federated.keys import numpy_rng
from federated.local import train_client as train_client  # the client side: plain local SGD
from federated.records import from_record


def build_strategy(participation: float, seed: int, partition_of: Mapping[int, int]) -> FedAvg:
    """The server side; see ``FedAvg``."""
    return FedAvg(participation, seed, partition_of)


class FedAvg(FlowerFedAvg):
    """Flower's FedAvg, made a function of its seed and nothing else.

    It differs from Flower's in three ways. Who takes part is drawn from ``(seed, round)`` over partition ids, not from
    a global generator over node ids, which are random. Replies are put in client order before they are combined,
    because a sum of floats depends on its order. Integer buffers (BatchNorm's count of batches) keep their type: the
    largest of the clients' values is taken, for an average of counts counts nothing.

    Args:
        participation: share of the clients that train in a round, at least one client.
        seed: the run's seed.
        partition_of: node id to partition id.
    """

    def __init__(self, participation: float, seed: int, partition_of: Mapping[int, int]) -> None:
        super().__init__(fraction_train=participation, min_train_nodes=1, min_available_nodes=1)
        self.seed = seed
        self.partition_of = dict(partition_of)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each participant of the round, in client order."""
        node_of = {partition: node for node, partition in self.partition_of.items()}
        # Every message has a record of its own: clients in this process must not see each other's changes.
        return [
            Message(
                RecordDict(
                    {
                        self.arrayrecord_key: ArrayRecord(dict(arrays)),
                        self.configrecord_key: ConfigRecord({**config, "server-round": server_round}),
                    }
                ),
                dst_node_id=node_of[client],
                message_type=MessageType.TRAIN,
                group_id=str(server_round),
            )
            for client in sample_clients(self.seed, server_round, sorted(node_of), self.fraction_train)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the clients' weights and metrics, weighted by their numbers of examples."""
        ordered = sorted(replies, key=lambda reply: self.partition_of[reply.metadata.src_node_id])
        valid, _ = self._check_and_log_replies(ordered, is_train=True)
        if not valid:
            return None, None
        contents = [reply.content for reply in valid]
        counts = [int(str(content.metric_records["metrics"][self.weighted_by_key])) for content in contents]
        weights = [from_record(content.array_records[self.arrayrecord_key]) for content in contents]
        return ArrayRecord(weighted_mean(weights, counts)), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def sample_clients(seed: int, server_round: int, clients: list[int], participation: float) -> list[int]:
    """Who trains in a round: a share of ``clients``, at least one, drawn without replacement, in increasing order."""
    count = max(1, round(participation * len(clients)))
    chosen = numpy_rng(seed, "participants", server_round).choice(len(clients), count, replace=False)
    return [clients[index] for index in sorted(chosen)]


def weighted_mean(weights: list[dict[str, Tensor]], counts: list[int]) -> dict[str, Tensor]:
    """Mean of state dicts weighted by ``counts``, summed in float64 in the order given; of integers the maximum."""
    total = sum(counts)
    mean = {}
    for name, first in weights[0].items():
        tensors = [client[name] for client in weights]
        if first.is_floating_point():
            summed = torch.zeros(first.shape, dtype=torch.float64)
            for tensor, count in zip(tensors, counts, strict=True):
                summed += tensor.double() * (count / total)
            mean[name] = summed.to(first.dtype)
        else:
            mean[name] = torch.stack(tensors).amax(0)
    return mean
