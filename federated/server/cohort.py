"""A Flower strategy made into a federation's: reproducible, over whole models, and with a state that can be saved.

Flower's strategies, and the ones in ``algorithms/``, see a model's parameters only and answer one question: what do
these replies make of these parameters? All else is the same for every one of them and done here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from federated.algorithms.averaging import weighted_mean
from federated.client.batch_norm import buffers_of
from federated.messages import KeptRecord, from_record
from fps_pretrain.common.keys import numpy_rng

ServerState = dict[str, dict[str, Tensor]]
"""What a strategy carries from round to round, such as momenta: state dicts by name."""


class Federation(Strategy):
    """Lets a Flower strategy combine the parameters of models, and looks after the rest.

    - Who takes part is drawn from ``(seed, round)`` over partition ids, not from a global generator over node ids,
      which are random.
    - Replies are put in client order before they are combined, because a sum of floats depends on its order.
    - Buffers never reach the strategy; see ``batch_norm``. Integer ones keep their type.
    - Parameters keep their type, even where a strategy's arithmetic ends in float64.

    Args:
        inner: combines parameters; it may itself wrap another strategy, as Flower's differential privacy does.
        parameters: the names of the parameters in a model's state dict.
        participants: how many clients train in a round.
        seed: the run's seed.
        partition_of: node id to partition id.
    """

    def __init__(
        self,
        inner: Strategy,
        parameters: frozenset[str],
        participants: int,
        seed: int,
        partition_of: Mapping[int, int],
    ) -> None:
        self.inner = inner
        self.parameters = parameters
        self.participants = participants
        self.seed = seed
        self.partition_of = dict(partition_of)
        self._start: dict[str, Tensor] = {}

    def summary(self) -> None:
        """Log the inner strategy's settings."""
        self.inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each participant of the round, in client order, each with records of its own."""
        self._start = from_record(arrays)
        node_of = {partition: node for node, partition in self.partition_of.items()}
        chosen = sample_clients(self.seed, server_round, sorted(node_of), self.participants)
        # When it configures a round, a strategy asks its grid for nothing but the nodes there are.
        nodes = cast(Grid, SimpleNamespace(get_node_ids=lambda: [node_of[client] for client in chosen]))
        parameters = KeptRecord({name: array for name, array in arrays.items() if name in self.parameters})
        messages = list(self.inner.configure_train(server_round, parameters, ConfigRecord(dict(config)), nodes))
        for message in messages:
            message.content["arrays"] = arrays.copy()
        return sorted(messages, key=lambda message: self.partition_of[message.metadata.dst_node_id])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model and the clients' mean metrics, or None where the strategy asks for more replies."""
        ordered = sorted(replies, key=lambda reply: self.partition_of[reply.metadata.src_node_id])
        buffers, counts = [], []
        for reply in ordered:
            record = reply.content.array_records["arrays"]
            buffers.append(buffers_of(from_record(record), self.parameters))
            counts.append(int(str(reply.content.metric_records["metrics"]["num-examples"])))
            reply.content["arrays"] = KeptRecord({n: array for n, array in record.items() if n in self.parameters})
        combined, metrics = self.inner.aggregate_train(server_round, ordered)
        if not combined:
            return None, None
        # Clients that send no buffers (``--bn-stats server``) leave the server's as they are.
        updated = {**self._start, **(weighted_mean(buffers, counts) if buffers[0] else {}), **from_record(combined)}
        weights = {name: updated[name].to(tensor.dtype) for name, tensor in self._start.items()}
        return ArrayRecord(weights), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No messages: the round loop evaluates the model itself."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing, for nothing was asked."""
        return None

    def state_dict(self) -> ServerState:
        """What the strategies inside carry from round to round."""
        return {name: state for part in self._parts() for name, state in part.state_dict().items()}

    def load_state_dict(self, state: ServerState) -> None:
        """Go on from what ``state_dict`` returned."""
        for part in self._parts():
            part.load_state_dict(state)

    def _parts(self) -> list[Any]:
        """The strategies inside that have a state: the inner one, what it wraps, and so on."""
        parts: list[Any] = []
        part: Any = self.inner
        while part is not None:
            if hasattr(part, "state_dict"):
                parts.append(part)
            part = getattr(part, "strategy", None)
        return parts


def sample_clients(seed: int, server_round: int, clients: list[int], count: int) -> list[int]:
    """Who trains in a round: ``count`` of ``clients``, drawn without replacement, in increasing order."""
    chosen = numpy_rng(seed, "participants", server_round).choice(len(clients), count, replace=False)
    return [clients[index] for index in sorted(chosen)]
