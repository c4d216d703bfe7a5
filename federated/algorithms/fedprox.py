"""FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", algorithm 2).

A client minimises ``F_k(w) + mu / 2 ||w - w_t||^2``, which keeps it near the model it was sent. The server averages as
in FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from federated.algorithms.fedavg import combine as combine  # the server does as in FedAvg
from federated.algorithms.fedavg import init as init
from federated.client.training import Client, ClientUpdate, local_sgd
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedProx."""

    mean_only: ClassVar[bool] = True

    prox_mu: Annotated[float, Ge(0)] = 0.01
    """Weight of the proximal term."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Local SGD whose gradients have ``mu (w - w_t)`` added."""
    mu = client.options.prox_mu
    start = client.beside_parameters(weights)

    @torch.no_grad()
    def adjust() -> None:
        for parameter, origin in start:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=mu)

    return local_sgd(client, weights, adjust=adjust)
