"""SCAFFOLD (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", algorithm 1).

Control variates, c at the server and c_i at each client, estimate the gradients of all clients and of one; local steps
go along ``g_i(y) - c_i + c``, so that clients with different data do not drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from federated.algorithms.averaging import weighted_sum
from federated.algorithms.fedavg import ChangesFromStart, arrays_of
from federated.client.training import Client, ClientUpdate, Weights, effective_steps, local_sgd
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig

KEEPS_STATE = True


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of SCAFFOLD."""

    keeps_state: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 1.0
    """Step of the server."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """The clients' part of algorithm 1, with option (ii) to update c_i: ``c_i - c + (x - y_i) / (K lr)``.

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


class Scaffold(ChangesFromStart):
    """Moves the model by the mean of the clients' changes, and its control variate by the mean of theirs.

    Both means are plain ones, as in the paper: every client counts the same, however many examples it has.

    Args:
        server_lr: eta_g, the step along the mean change.
        num_clients: N, all clients there are.
    """

    carried = ("control",)
    one_record = False

    def __init__(self, server_lr: float, num_clients: int) -> None:
        super().__init__()
        self.server_lr = server_lr
        self.num_clients = num_clients
        self.control: Weights = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages with the server's control variate, which is zero at first."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.control = self.control or {name: torch.zeros_like(tensor) for name, tensor in self.origin.items()}
        control = ArrayRecord(self.control)
        for message in messages:
            message.content["control"] = control.copy()
        return messages

    def combine(self, replies: list[Message]) -> Weights:
        """``x + eta_g mean(y_i - x)`` and ``c + (|S| / N) mean(change of c_i)``."""
        changes = chain([self.control], arrays_of(replies, "control"))
        self.control = weighted_sum(changes, [1.0, *[1 / self.num_clients] * len(replies)])
        share = self.server_lr / len(replies)
        return weighted_sum(chain([self.origin], arrays_of(replies)), [1 - self.server_lr, *[share] * len(replies)])
