"""Multi-Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", its experiments).

The mean, weighted by examples, of the clients with the best Krum scores (see ``krum``). The strategy is Flower's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from flwr.serverapp.strategy import MultiKrum

from federated.algorithms import flower
from federated.algorithms.base import Setting
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of Multi-Krum."""

    robust: ClassVar[bool] = True

    malicious: Annotated[int, Ge(0)] = 1
    """Malicious clients that are allowed for in a round."""
    selected: Annotated[int, Ge(1)] | None = None
    """Clients that are averaged, at most all that answer but the malicious (the default)."""

    @property
    def least_replies(self) -> int:
        """As for Krum: 2f + 2 < n."""
        return 2 * self.malicious + 3


def _arguments(setting: Setting) -> dict[str, Any]:
    malicious = setting.options.malicious
    most = setting.participants - malicious
    return {"num_malicious_nodes": malicious, "num_nodes_to_select": min(setting.options.selected or most, most)}


init, combine = flower.server_step(MultiKrum, _arguments, float64=True)
