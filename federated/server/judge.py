"""What is measured of the global model after a round: on the server's test images, and at the clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import MessageType, RecordDict

from federated.client.batch_norm import with_own_statistics
from federated.client.state import ClientStates
from federated.client.training import Weights
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data.partition import Partition
from federated.server import evaluation
from federated.server.exchange import Clients
from federated.server.output.progress import log
from federated.server.output.run_folder import Row, State


@dataclass(frozen=True)
class Judge:
    """Measures a run's state.

    Args:
        config: the run.
        space: data and model at the server.
        clients: the clients; None where none need be asked.
        states: where clients on this machine keep what they remember; None where they keep it elsewhere.
    """

    config: RunConfig
    space: Workspace
    clients: Clients | None
    states: ClientStates | None

    def row(self, state: State) -> Row:
        """The measurements of a row of metrics.jsonl; None where this round is not evaluated."""
        config, server_round = self.config, state.round
        row: Row = {"round": server_round, "test_accuracy": None, "test_loss": None, "val_accuracy": None}
        row["val_loss"] = None
        last = server_round == config.rounds
        if last or server_round % config.eval_every == 0:
            row.update(self.space.evaluate(state.weights))
        if config.per_client_every and (last or server_round % config.per_client_every == 0):
            row.update(self._per_client(state))
        return row

    def first_row(self, state: State) -> Row:
        """The measurements before training."""
        row: Row = {"round": 0, **self.space.evaluate(state.weights)}
        return {**row, **(self._per_client(state) if self.config.per_client_every else {})}

    def _per_client(self, state: State) -> Row:
        """How the global model does at each client."""
        if self.config.partition == "nodes":
            return evaluation.summarise(self._at_nodes(state))
        dataset = self.space.dataset
        parts = [
            evaluation.client_accuracies(
                self.space.correct_mask(weights), dataset.test, dataset.train, partition, len(dataset.classes)
            )
            for weights, partition in self._weights_of_clients(state)
        ]
        return evaluation.summarise(np.concatenate(parts))

    def _at_nodes(self, state: State) -> Any:
        """The accuracy that each node reports on its own test examples ``(clients,)``; NaN where one does not."""
        assert self.clients is not None
        told = {client: {"state-round": int(state.client_rounds[client])} for client in range(len(self.clients))}
        answers, failures = self.clients.ask(MessageType.EVALUATE, {"arrays": state.weights}, told)
        accuracies = np.full(self.config.clients, np.nan)
        for client, answer in answers.items():
            accuracy = reported_accuracy(answer)
            if accuracy is None:
                failures[client] = "sent no accuracy from 0 to 1"
            else:
                accuracies[client] = accuracy
        for client, reason in sorted(failures.items()):
            log.info(f"round {state.round}: client {client} is not evaluated: {reason}")
        return accuracies

    def _weights_of_clients(self, state: State) -> Iterator[tuple[Weights, Partition]]:
        """The weights that clients are judged by and those clients' examples, in client order.

        The global model's for all of them; with ``--bn-stats local`` each has statistics of its own. Nodes elsewhere
        keep theirs to themselves.
        """
        if self.config.bn_stats != "local" or self.states is None:
            yield state.weights, self.space.partition
            return
        for client, part in enumerate(self.space.partition):
            own = self.states.load(client, int(state.client_rounds[client]))
            yield with_own_statistics(state.weights, own), [part]


def reported_accuracy(answer: RecordDict) -> float | None:
    """The accuracy in a node's answer, or None if it holds none from 0 to 1."""
    metrics = answer.metric_records.get("metrics")
    value = metrics.get("accuracy") if metrics is not None else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        return None
    return float(value)
