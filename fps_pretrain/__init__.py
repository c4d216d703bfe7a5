"""Fractal Pair Similarity pre-training: synthetic fractal pairs train an image encoder (Chen et al., ICLR 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fps_pretrain.checkpoint import load_encoder
    from fps_pretrain.iterable import FPSPairs

__all__ = ["FPSPairs", "load_encoder"]

_HOMES = {"FPSPairs": "iterable", "load_encoder": "checkpoint"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch takes seconds, which ``--help`` need not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fps_pretrain' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"fps_pretrain.{_HOMES[name]}"), name)
