"""Federated algorithms, one module each: what a client does beside the Flower strategy that combines it.

A module in this package is an algorithm of that name, chosen with ``--strategy NAME``. It defines:

    class Options(AlgorithmOptions)                    its options and facts; see ``federated.config.algorithm``
    KEEPS_STATE = True                                 if clients remember something between rounds
    train_client(client, weights) -> ClientUpdate      what a client does with the model
    build_strategy(config) -> Strategy                 what the server does with the replies: a Flower strategy over
                                                       parameters, which ``strategy.Federation`` makes whole

Adding one is adding a file. This module imports nothing heavy, and ``Options`` is read without running the modules, so
that flags can be checked and ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from federated.config.algorithm import names as names
from federated.config.algorithm import options_class
from fps_pretrain.common.options import fields_of

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy
    from torch import Tensor

    from federated.client.training import Client, ClientUpdate
    from federated.config.run import RunConfig


class Algorithm(Protocol):
    """What a module of this package provides."""

    def train_client(self, client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
        """Train from ``weights`` on one client's examples; see ``federated.client.training.local_sgd``."""

    def build_strategy(self, config: RunConfig) -> Strategy:
        """The Flower strategy that combines parameters."""


def options(name: str) -> Mapping[str, Any]:
    """The options of an algorithm, fields of ``RunConfig``, with their defaults; None means that it works one out."""
    return {one.name: one.default for one in fields_of(options_class(name))}


def load(name: str) -> Algorithm:
    """The algorithm of that name, one of ``names()``."""
    return cast(Algorithm, importlib.import_module(f"{__name__}.{name}"))


def keeps_state(name: str) -> bool:
    """Whether clients of this algorithm remember something from round to round."""
    return getattr(load(name), "KEEPS_STATE", False)
