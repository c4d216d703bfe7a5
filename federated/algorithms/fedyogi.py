"""FedYogi (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2).

With ``d = mean(w_k) - w``: ``m <- b1 m + (1 - b1) d``, ``v <- v - (1 - b2) d^2 sign(v - d^2)``,
``w <- w + lr m / (sqrt(v) + tau)``. The strategy is Flower's, whose ``v`` begins at 0, the paper's
at tau^2 or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from flwr.serverapp.strategy import FedYogi

from federated.algorithms import flower
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedYogi."""

    mean_only: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 0.01
    """Step of the server."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay of the second moment."""
    tau: Annotated[float, Gt(0)] = 0.001
    """Added to the root of the second moment."""


CARRIED = ("m_t", "v_t")

init, combine = flower.server_step(
    FedYogi,
    lambda setting: {
        "eta": setting.options.server_lr,
        "beta_1": setting.options.beta1,
        "beta_2": setting.options.beta2,
        "tau": setting.options.tau,
    },
    carried=CARRIED,
    of_mean=True,
)
