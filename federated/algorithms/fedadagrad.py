"""FedAdagrad (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2).

With ``d = mean(w_k) - w``: ``v <- v + d^2``, ``w <- w + lr d / (sqrt(v) + tau)``. The strategy is Flower's, without
momentum; its ``v`` begins at 0, the paper's at tau^2 or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from flwr.serverapp.strategy import FedAdagrad

from federated.algorithms import flower
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedAdagrad."""

    mean_only: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 0.01
    """Step of the server."""
    tau: Annotated[float, Gt(0)] = 0.001
    """Added to the root of the second moment."""


CARRIED = ("m_t", "v_t")

init, combine = flower.server_step(
    FedAdagrad,
    lambda setting: {"eta": setting.options.server_lr, "tau": setting.options.tau},
    carried=CARRIED,
    of_mean=True,
)
