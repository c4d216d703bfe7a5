"""What is measured of the global model after a round: on the server's test images, and at the clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import MessageType, RecordDict

from federated.client.evaluation import accuracies_at, correct_mask, of_splits
from federated.client.parts import with_own_part
from federated.client.state import ClientStates
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.server import client_metrics
from federated.server.exchange import Clients
from federated.server.output.history import Row
from federated.server.output.progress import log
from federated.server.output.run_folder import State
from federated.weights import Weights


@dataclass(frozen=True)
class Evaluator:
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
        if server_round == config.rounds or server_round % config.eval_every == 0:
            row.update(of_splits(self.space, state.weights))
        if config.evaluates_clients(server_round):
            row.update(self._per_client(state))
        return row

    def _per_client(self, state: State) -> Row:
        """How the global model does at each client, and what each makes of it by fine-tuning it."""
        elsewhere = self.config.bn_stats == "local" and self.states is None
        if self.config.asks_clients or elsewhere:
            return self._ask(state)
        parts = [
            accuracies_at(self.space, clients, correct_mask(self.space, weights))
            for weights, clients in self._weights_of_clients(state)
        ]
        return client_metrics.summarise(np.concatenate(parts))

    def _ask(self, state: State) -> Row:
        """What clients report of their own held-out examples; one that does not answer has no accuracy."""
        assert self.clients is not None
        shared = self.space.parts.shared(state.weights)
        told = {
            client: {"state-round": state_round, "evaluated-round": state.round}
            for client, state_round in enumerate(state.client_rounds.tolist())
        }
        answers, failures = self.clients.ask(MessageType.EVALUATE, {"arrays": shared}, told)
        names = {"accuracy": "client"}
        if self.config.fine_tune_epochs:
            names["fine-tuned-accuracy"] = "fine_tuned"
        found = {name: np.full(self.config.clients, np.nan) for name in names}
        for client, answer in answers.items():
            for name in names:
                accuracy = reported_accuracy(answer, name)
                if accuracy is None:
                    failures[client] = f"sent no {name.replace('-', ' ')} from 0 to 1"
                else:
                    found[name][client] = accuracy
        for accuracies in found.values():  # before and after fine-tuning belong together
            accuracies[np.isnan(found["accuracy"])] = np.nan
        for client, reason in sorted(failures.items()):
            log.info(f"round {state.round}: client {client} is not evaluated: {reason}")
        row: Row = {}
        for name, prefix in names.items():
            row.update(client_metrics.summarise(found[name], prefix))
        return row

    def _weights_of_clients(self, state: State) -> Iterator[tuple[Weights, list[int]]]:
        """The weights that clients are judged by and those clients, in client order.

        The global model's for all of them; with ``--bn-stats local`` each has statistics of its own.
        """
        everybody = list(range(self.config.clients))
        if self.config.bn_stats != "local":
            yield state.weights, everybody
            return
        assert self.states is not None
        for client in everybody:
            own = self.states.load(client, int(state.client_rounds[client]))
            yield with_own_part(state.weights, own), [client]


def reported_accuracy(answer: RecordDict, name: str = "accuracy") -> float | None:
    """The accuracy of that name in a client's answer, or None if it holds none from 0 to 1."""
    metrics = answer.metric_records.get("metrics")
    value = metrics.get(name) if metrics is not None else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        return None
    return float(value)
