"""Presets: the budgets and recipes that ``--preset`` names."""

from __future__ import annotations

from typing import Any, Literal

Preset = Literal["auto", "paper", "short", "quick"]

PRESETS: dict[str, dict[str, Any]] = {
    # Chen et al., ICLR 2023, appendix; the released code's defaults, the same for every encoder and size. That code
    # keeps the last image of each class, so that both views of a pair nearly always show the same one.
    "paper": {"epochs": 100, "pairs_per_epoch": 1_000_000, "batch_size": 256, "renders": "shared"},
    # Measured: contrasting within the batch overtakes random weights after 100,000 pairs, where plain SimSiam has not
    # after 1,280,000 (experiments/results).
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

FOR_SHORT_RUNS: dict[str, dict[str, Any]] = {
    # The paper's numbers want the paper's 10^8 pairs: on fewer, SimSiam's features collapse to a line and MoCo's keys
    # move together. Measured at 1,280,000 pairs (experiments/results/short-runs).
    "simsiam": {"method_options": {"centre": 1}},
    "moco": {
        "method_options": {"head_batchnorm": 1, "group": 0, "temperature": 0.5, "queue": 4_096, "momentum": 0.99},
        "lr": 0.12,
        "composed_views": 1,
    },
}
"""What the presets other than the paper's change of a method, on fractals; ``lr`` is that for a batch of 256."""

USUAL: dict[str, Any] = {
    "method": "simsiam",
    "schedule": "epoch",
    "warmup_pairs": 0,
    "composed_views": 2,
    "renders": "fresh",
}
"""Values of the fields that neither the user nor the preset has given."""


def values_of(preset: str, view_size: int) -> dict[str, Any]:
    """The fields that a preset fills for views of this size in pixels."""
    return USUAL | PRESETS["quick, large" if preset == "quick" and view_size > 64 else preset]


def warmup_of(preset_pairs: int, run_pairs: int) -> int:
    """The pairs of a preset's warm-up in a run of ``run_pairs``: a twentieth where the run is small beside it."""
    return preset_pairs if run_pairs >= 4 * preset_pairs else run_pairs // 20


def for_short_runs(preset: str, method: str) -> dict[str, Any]:
    """What a preset changes of a method so that it learns from few pairs: ``FOR_SHORT_RUNS``, but for the paper's."""
    return {} if preset == "paper" else FOR_SHORT_RUNS.get(method, {})
