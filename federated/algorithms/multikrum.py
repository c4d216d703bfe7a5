"""Multi-Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", its experiments).

The mean, weighted by examples, of the clients with the best Krum scores (see ``krum``). The strategy is Flower's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from flwr.serverapp.strategy import MultiKrum as FlowerMultiKrum

from federated.algorithms.fedavg import FedAvg
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of Multi-Krum."""

    robust: ClassVar[bool] = True

    malicious: Annotated[int, Ge(0)] = 1
    """Malicious clients that are allowed for in a round."""
    selected: Annotated[int, Ge(1)] | None = None
    """Clients that are averaged (default: all participants but the malicious)."""

    @property
    def least_replies(self) -> int:
        """As for Krum: 2f + 2 < n."""
        return 2 * self.malicious + 3


def build_strategy(config: RunConfig) -> MultiKrum:
    """Flower's MultiKrum; by default all participants but the malicious are selected."""
    selected = config.selected or config.participants - config.option("malicious")
    return MultiKrum(num_malicious_nodes=config.option("malicious"), num_nodes_to_select=selected)


class MultiKrum(FlowerMultiKrum, FedAvg):
    """Flower's MultiKrum; by default all participants but the malicious are selected."""
