"""SCAFFOLD (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", algorithm 1).

Control variates, c at the server and c_i at each client, estimate the gradients of all clients and of one; local steps
go along ``g_i(y) - c_i + c``, so that clients with different data do not drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from federated.algorithms.averaging import Mean, Sum, weighted_sum
from federated.algorithms.base import Combined, Replies, ServerState, Setting, Weights
from federated.client.training import Client, ClientUpdate, effective_steps, local_sgd
from federated.config.algorithm import AlgorithmOptions

SENT = RECEIVED = ("control",)


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


def init(params: Weights, setting: Setting) -> ServerState:
    """The server's control variate begins at zero."""
    return {"control": {name: torch.zeros_like(tensor) for name, tensor in params.items()}}


def combine(state: ServerState, params: Weights, replies: Replies, setting: Setting) -> Combined:
    """``x + eta_g mean(y_i - x)`` and ``c + (|S| / N) mean(change of c_i)``.

    Both means are plain ones, as in the paper: every client counts the same, however many examples it has.
    """
    mean, control = Mean([1] * len(replies.expected_examples)), Sum()
    control.add(state["control"], 1.0)
    for update in replies:
        mean.add(update.weights, 1)
        control.add(update.extra["control"], 1 / setting.num_clients)
    step = setting.options.server_lr
    moved = weighted_sum([params, mean.in_float64], [1 - step, step])
    return Combined(moved, {"control": control.result()})
