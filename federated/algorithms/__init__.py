"""Federated algorithms, one file each: see ``base`` for what a file defines."""

from __future__ import annotations

import importlib

from federated.algorithms.base import Algorithm
from federated.client.parts import keeps_own_part
from federated.config.algorithm import names as names
from federated.config.run import RunConfig


def clients_remember(config: RunConfig) -> bool:
    """Whether clients keep something from round to round: for the algorithm, or a part of the model."""
    return keeps_own_part(config) or config.algorithm_options().keeps_state


def load(config: RunConfig) -> Algorithm:
    """The algorithm that a run has chosen, with its options."""
    module = importlib.import_module(f"{__name__}.{config.strategy}")
    return Algorithm(
        name=config.strategy,
        options=config.algorithm_options(),
        train_client=module.train_client,
        init=module.init,
        combine=module.combine,
        sent=getattr(module, "SENT", ()),
        received=getattr(module, "RECEIVED", ()),
        metrics=getattr(module, "METRICS", ()),
        carried=getattr(module, "CARRIED", ()),
    )
