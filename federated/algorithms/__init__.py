"""Federated algorithms, one module each: what a client does beside the Flower strategy that combines it.

A module in this package is an algorithm of that name, chosen with ``--strategy NAME``. It defines:

    train_client(model, weights, images, labels, hyper, key) -> ClientUpdate      what a client does with the model
    build_strategy(participation, seed, partition_of) -> Strategy                 what the server does with the replies

Adding one is adding a file. This module itself imports nothing heavy, so that flags can be checked against ``names``.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.serverapp.strategy import Strategy
    from torch import Tensor, nn

    from federated.local import ClientUpdate, Hyper


class Algorithm(Protocol):
    """What a module of this package provides."""

    def train_client(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        images: Tensor,
        labels: Tensor,
        hyper: Hyper,
        key: tuple[int, int, int],
    ) -> ClientUpdate:
        """Train on one client's examples; see ``federated.local.train_client``."""

    def build_strategy(self, participation: float, seed: int, partition_of: Mapping[int, int]) -> Strategy:
        """The Flower strategy; ``partition_of`` maps node ids to partition ids."""


def names() -> list[str]:
    """The algorithms there are, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Algorithm:
    """The algorithm of that name, one of ``names()``."""
    return cast(Algorithm, importlib.import_module(f"{__name__}.{name}"))
