"""Bulyan (El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium", section 4).

Of the n - 2f clients with the best Krum scores (see ``krum``) each parameter is the mean of the n - 4f values nearest
to their median. The strategy is Flower's, which takes these clients at once; the paper runs Krum anew after
each choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from flwr.serverapp.strategy import Bulyan

from federated.algorithms import flower
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of Bulyan."""

    robust: ClassVar[bool] = True

    malicious: Annotated[int, Ge(0)] = 1
    """Malicious clients that are allowed for in a round."""

    @property
    def least_replies(self) -> int:
        """Bulyan needs 4f + 3 <= n (El Mhamdi et al. 2018, section 4)."""
        return 4 * self.malicious + 3


init, combine = flower.server_step(
    Bulyan, lambda setting: {"num_malicious_nodes": setting.options.malicious}, float64=True
)
