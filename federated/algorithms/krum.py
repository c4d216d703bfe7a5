"""Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", the Krum function).

The model of one client is taken: the one nearest to its n - f - 2 nearest others, of n clients with f malicious. The
strategy is Flower's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from flwr.serverapp.strategy import Krum

from federated.algorithms import flower
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of Krum."""

    robust: ClassVar[bool] = True

    malicious: Annotated[int, Ge(0)] = 1
    """Malicious clients that are allowed for in a round."""

    @property
    def least_replies(self) -> int:
        """Krum needs 2f + 2 < n (Blanchard et al. 2017, proposition 1)."""
        return 2 * self.malicious + 3


init, combine = flower.server_step(
    Krum, lambda setting: {"num_malicious_nodes": setting.options.malicious}, float64=True
)
