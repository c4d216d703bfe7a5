"""Federated learning with Flower: partitions, local training, strategies and the round loop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# PyTorch's threads spin while they wait for each other, which is slow where another program runs beside them. libgomp
# reads this when it is loaded, so it must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Flower reads these when it is imported: a run sends nothing anywhere and asks for no newer version.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
# Ray's coming default, which spares users a warning at every start.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

if TYPE_CHECKING:
    from federated.results.classifier import load_classifier

__all__ = ["load_classifier"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch takes seconds, which ``--help`` need not wait for."""
    if name != "load_classifier":
        raise AttributeError(f"module 'federated' has no attribute '{name}'")
    from federated.results.classifier import load_classifier

    return load_classifier
