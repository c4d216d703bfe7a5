"""Presets: the budgets and recipes that ``--preset`` names."""

from __future__ import annotations

from typing import Any, Literal

Preset = Literal["auto", "paper", "short", "quick"]

PRESETS: dict[str, dict[str, Any]] = {
    # Chen et al., ICLR 2023, appendix; the released code's defaults, the same for every encoder and size.
    "paper": {"epochs": 100, "pairs_per_epoch": 1_000_000, "batch_size": 256},
    # Measured: contrasting within the batch overtakes random weights after 100,000 pairs, where SimSiam has not after
    # 1,280,000 (experiments/results).
    "short": {
        "method": "simclr",
        "epochs": 20,
        "pairs_per_epoch": 256_000,
        "batch_size": 256,
        "schedule": "step",
        "warmup_pairs": 25_600,
    },
    "quick": {"epochs": 10, "pairs_per_epoch": 10_240, "batch_size": 256},
    # A pair of 224 px costs a CPU a hundred times what one of 32 px does.
    "quick, large": {"epochs": 4, "pairs_per_epoch": 512, "batch_size": 32},
}

USUAL: dict[str, Any] = {"method": "simsiam", "schedule": "epoch", "warmup_pairs": 0}
"""Values of the fields that neither the user nor the preset has given."""


def values_of(preset: str, view_size: int) -> dict[str, Any]:
    """The fields that a preset fills for views of this size in pixels."""
    return USUAL | PRESETS["quick, large" if preset == "quick" and view_size > 64 else preset]
