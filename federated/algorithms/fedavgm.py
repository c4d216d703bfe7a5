"""FedAvgM (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution", section 4.3).

FedAvg with momentum at the server. With ``d = w - mean(w_k)``: ``v <- beta v + d``, ``w <- w - lr v``. The strategy
is Flower's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from flwr.serverapp.strategy import FedAvgM

from federated.algorithms import flower
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedAvgM."""

    mean_only: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 1.0
    """Step of the server."""
    server_momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of the server."""


CARRIED = ("momentum_vector",)

init, combine = flower.server_step(
    FedAvgM,
    lambda setting: {
        "server_learning_rate": setting.options.server_lr,
        "server_momentum": setting.options.server_momentum,
    },
    carried=CARRIED,
    of_mean=True,
)
