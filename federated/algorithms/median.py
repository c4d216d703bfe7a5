"""Coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", algorithm 1, option I).

Each parameter becomes the median of the clients' values, whatever their numbers of examples. The strategy is Flower's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flwr.serverapp.strategy import FedMedian

from federated.algorithms import flower
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """The median has no options of its own."""

    robust: ClassVar[bool] = True

    @property
    def least_replies(self) -> int:
        """The median of two is their mean, which one of them can move anywhere."""
        return 3


init, combine = flower.server_step(FedMedian, lambda setting: {})
