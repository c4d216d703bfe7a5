"""Federated algorithms, one file each: see ``base`` for what a file defines."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from functools import cache

from federated.algorithms.base import Algorithm
from federated.config.run import RunConfig

_NOT_ALGORITHMS = {"averaging", "base", "flower"}


@cache
def names() -> tuple[str, ...]:
    """The algorithms there are, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_ALGORITHMS))


def load(config: RunConfig) -> Algorithm:
    """The algorithm that a run has chosen, with its options."""
    module = importlib.import_module(f"{__name__}.{config.strategy}")
    options = module.Options(**{field.name: getattr(config, field.name) for field in fields(module.Options)})
    return Algorithm(
        name=config.strategy,
        options=options,
        train_client=module.train_client,
        init=module.init,
        combine=module.combine,
        sent=getattr(module, "SENT", ()),
        received=getattr(module, "RECEIVED", ()),
        metrics=getattr(module, "METRICS", ()),
    )
