"""FedDyn (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", algorithm 1).

Each client keeps an estimate g_i of its own gradient at the model all agree on, and minimises
``L_i(w) - <g_i, w> + alpha / 2 ||w - w_t||^2``: where clients agree, so do the optima of their objectives and the
global one.
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
from federated.client.training import Client, ClientUpdate, local_sgd
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedDyn."""

    keeps_state: ClassVar[bool] = True

    feddyn_alpha: Annotated[float, Gt(0)] = 0.01
    """Weight of the regularisation."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Local SGD on that objective, then ``g_i <- g_i - alpha (w_i - w_t)``, its gradient at the optimum."""
    alpha = client.options.feddyn_alpha
    parameters = client.parameters_of(weights)
    own = client.state.get("gradient") or {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    terms = [
        (parameter, origin, gradient)
        for (parameter, origin), (_, gradient) in zip(
            client.beside_parameters(weights), client.beside_parameters(own), strict=True
        )
    ]

    @torch.no_grad()
    def adjust() -> None:
        for parameter, origin, gradient in terms:
            if parameter.grad is not None:
                parameter.grad.sub_(gradient).add_(parameter - origin, alpha=alpha)

    update = local_sgd(client, weights, adjust=adjust)
    new = {name: own[name] - alpha * (update.weights[name] - weights[name]) for name in own}
    return update._replace(state={"gradient": new})


def init(params: Weights, setting: Setting) -> ServerState:
    """The server's h begins at zero."""
    return {"h": {name: torch.zeros_like(tensor) for name, tensor in params.items()}}


def combine(state: ServerState, params: Weights, replies: Replies, setting: Setting) -> Combined:
    """``h <- h - (alpha / m) sum_i (w_i - w_t)`` over all m clients, and ``w_{t+1} = mean(w_i) - h / alpha``.

    The mean is a plain one, as in the paper: every client counts the same, however many examples it has.
    """
    alpha, asked = setting.options.feddyn_alpha, len(replies.expected_examples)
    step, answered = alpha / setting.num_clients, 0
    mean, total = Mean([1] * asked), Sum()
    total.add(state["h"], 1.0)
    total.add(params, step * asked)
    for update in replies:
        answered += 1
        mean.add(update.weights, 1)
        total.add(update.weights, -step)
    if answered < asked:
        total.add(params, -step * (asked - answered))
    h = total.result()
    moved = weighted_sum([mean.in_float64, h], [1.0, -1 / alpha])
    return Combined({name: tensor.to(params[name].dtype) for name, tensor in moved.items()}, {"h": h})
