"""Federated algorithms, one module each: what a client does beside the Flower strategy that combines it.

A module in this package is an algorithm of that name, chosen with ``--strategy NAME``. It defines:

    OPTIONS = {"prox_mu": 0.01}                the flags it takes and their defaults, a literal; left out if it has none
    KEEPS_STATE = True                         if clients remember something from round to round; left out if not
    train_client(client, weights) -> ClientUpdate      what a client does with the model
    build_strategy(config) -> Strategy                 what the server does with the replies: a Flower strategy over
                                                       parameters, which ``strategy.Federation`` makes whole

Adding one is adding a file; a flag that is new needs a field in ``RunConfig``, too. This module imports nothing heavy
and reads ``OPTIONS`` without running the modules, so that flags can be checked and ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy
    from torch import Tensor

    from federated.client.training import Client, ClientUpdate
    from federated.config.run import RunConfig


_NOT_ALGORITHMS = {"averaging"}


class Algorithm(Protocol):
    """What a module of this package provides."""

    def train_client(self, client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
        """Train from ``weights`` on one client's examples; see ``federated.client.training.local_sgd``."""

    def build_strategy(self, config: RunConfig) -> Strategy:
        """The Flower strategy that combines parameters."""


@cache
def names() -> tuple[str, ...]:
    """The algorithms there are, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_ALGORITHMS))


@cache
def options(name: str) -> Mapping[str, Any]:
    """The options of an algorithm, fields of ``RunConfig``, with their defaults; None means that it works one out."""
    for statement in ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "OPTIONS":
            return ast.literal_eval(statement.value)
    return {}


def load(name: str) -> Algorithm:
    """The algorithm of that name, one of ``names()``."""
    return cast(Algorithm, importlib.import_module(f"{__name__}.{name}"))


def keeps_state(name: str) -> bool:
    """Whether clients of this algorithm remember something from round to round."""
    return getattr(load(name), "KEEPS_STATE", False)
