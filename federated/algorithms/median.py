"""Coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", algorithm 1, option I).

Each parameter becomes the median of the clients' values, whatever their numbers of examples. The strategy is Flower's.
"""

from __future__ import annotations

from flwr.serverapp.strategy import FedMedian as FlowerFedMedian

from federated.algorithms.fedavg import FedAvg
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.run import RunConfig


def build_strategy(config: RunConfig) -> FedMedian:
    """Flower's FedMedian."""
    return FedMedian()


class FedMedian(FlowerFedMedian, FedAvg):
    """Flower's FedMedian."""
