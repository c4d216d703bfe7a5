"""FedAdagrad (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2).

With ``d = mean(w_k) - w``: ``v <- v + d^2``, ``w <- w + lr d / (sqrt(v) + tau)``. The strategy is Flower's, without
momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from flwr.serverapp.strategy import FedAdagrad as FlowerFedAdagrad

from federated.algorithms.fedadam import ServerOptimizer
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedAdagrad."""

    mean_only: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 0.01
    """Step of the server."""
    tau: Annotated[float, Gt(0)] = 0.001
    """Added to the root of the second moment."""


def build_strategy(config: RunConfig) -> FedAdagrad:
    """Flower's FedAdagrad."""
    return FedAdagrad.of(config)


class FedAdagrad(FlowerFedAdagrad, ServerOptimizer):
    """Flower's FedAdagrad over the mean of ``fedavg``, with a state that can be saved."""
