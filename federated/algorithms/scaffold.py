"""SCAFFOLD (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", algorithm 1).

Control variates, c at the server and c_i at each client, estimate the gradients of all clients and of one; local steps
go along ``g_i(y) - c_i + c``, so that clients with different data do not drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from federated.algorithms.fedavg import ALL_NODES, FedAvg, arrays_of
from federated.averaging import weighted_sum
from federated.config import RunConfig
from federated.local import Client, ClientUpdate, Weights, effective_steps, local_sgd
from federated.records import from_record

OPTIONS = {"server_lr": 1.0}
KEEPS_STATE = True


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """The clients' part of algorithm 1, with the second way to update c_i: ``c_i - c + (x - y_i) / (K lr)``.

    K counts a step with momentum as the plain steps it is worth; see ``effective_steps``.
    """
    control = client.received["control"]
    own = client.state.get("control") or {name: torch.zeros_like(tensor) for name, tensor in control.items()}
    offsets = client.beside_parameters({name: control[name] - own[name] for name in control})

    @torch.no_grad()
    def adjust() -> None:
        for parameter, offset in offsets:
            if parameter.grad is not None:
                parameter.grad.add_(offset)

    update = local_sgd(client, weights, adjust=adjust)
    scale = 1 / (client.hyper.lr * effective_steps(update.steps, client.hyper.momentum))
    new = {name: own[name] - control[name] + scale * (weights[name] - update.weights[name]) for name in control}
    change = {name: new[name] - own[name] for name in control}
    return update._replace(extra={"control": change}, state={"control": new})


def build_strategy(config: RunConfig) -> Scaffold:
    """The server's part of algorithm 1."""
    return Scaffold(config.option("server_lr"), config.clients)


class Scaffold(FedAvg):
    """Moves the model by the mean of the clients' changes, and its control variate by the mean of theirs.

    Both means are plain ones, as in the paper: every client counts the same, however many examples it has.

    Args:
        server_lr: eta_g, the step along the mean change.
        num_clients: N, all clients there are.
    """

    carried = ("control",)

    def __init__(self, server_lr: float, num_clients: int) -> None:
        super().__init__(**ALL_NODES)
        self.server_lr = server_lr
        self.num_clients = num_clients
        self.control: Weights | None = None
        self._start: Weights = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages with the server's control variate, which is zero at first."""
        self._start = from_record(arrays)
        if self.control is None:
            self.control = {name: torch.zeros_like(tensor) for name, tensor in self._start.items()}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        control = ArrayRecord(self.control)
        for message in messages:
            message.content["control"] = control.copy()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """``x + eta_g mean(y_i - x)`` and ``c + (|S| / N) mean(change of c_i)``."""
        valid, _ = self._check_and_log_replies(replies, is_train=True, validate=False)
        if not valid or self.control is None:
            return None, None
        share = self.server_lr / len(valid)
        factors = [1 - self.server_lr, *[share] * len(valid)]
        parameters = weighted_sum(chain([self._start], arrays_of(valid)), factors)
        factors = [1.0, *[1 / self.num_clients] * len(valid)]
        self.control = weighted_sum(chain([self.control], arrays_of(valid, "control")), factors)
        return ArrayRecord(parameters), self.mean_metrics(valid)
