"""Fractal Pair Similarity pre-training: synthetic fractal pairs train an image encoder (Chen et al., ICLR 2023)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# PyTorch's threads spin while they wait for each other, which is slow where another program runs beside them. libgomp
# reads this when it is loaded, so it must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from fps_pretrain.models.checkpoint import load_encoder
    from fps_pretrain.pairs.iterable import FPSPairs

__all__ = ["FPSPairs", "load_encoder"]

_HOMES = {"FPSPairs": "pairs.iterable", "load_encoder": "models.checkpoint"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch takes seconds, which ``--help`` need not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fps_pretrain' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"fps_pretrain.{_HOMES[name]}"), name)
