"""Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", the Krum function).

The model of one client is taken: the one nearest to its n - f - 2 nearest others, of n clients with f malicious. The
strategy is Flower's.
"""

from __future__ import annotations

from flwr.serverapp.strategy import Krum as FlowerKrum

from federated.algorithms.fedavg import FedAvg
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.run import RunConfig

OPTIONS = {"malicious": 1}


def build_strategy(config: RunConfig) -> Krum:
    """Flower's Krum."""
    return Krum(num_malicious_nodes=config.option("malicious"))


class Krum(FlowerKrum, FedAvg):
    """Flower's Krum."""
