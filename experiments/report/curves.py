"""The data behind the page's curves, as ``templates/curves.js`` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report.arms import Arm
from fps_pretrain.common.wording import counted

QUANTITIES = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "val_accuracy": "validation accuracy",
    "client_accuracy_mean": "mean of the clients",
    "client_accuracy_worst_tenth": "worst tenth of the clients",
    "fine_tuned_accuracy_mean": "mean of the clients, fine-tuned",
}
"""What can be shown, by its name in metrics.jsonl."""


AT_CLIENTS = ("client_", "fine_tuned_")
"""What the names of quantities begin with that are measured at the clients."""


def curves(arms: Sequence[Arm]) -> dict[str, Any]:
    """Arms, and for each quantity that was measured a series an arm: mean, lowest and highest seed of each round.

    Returns:
        ``{"arms": [{label, seeds}], "quantities": [{title, percent, top, series: [{arm, rounds, mean, low, high}]}]}``,
        which JSON can express: a missing value is None. ``top`` bounds the axis of a loss that explodes.
    """
    quantities = [_quantity(arms, key) for key in QUANTITIES]
    return {
        "arms": [{"label": arm.label, "seeds": counted(len(arm.runs), "seed")} for arm in arms],
        "quantities": [quantity for quantity in quantities if quantity["series"]],
    }


def _quantity(arms: Sequence[Arm], key: str) -> dict[str, Any]:
    percent = "accuracy" in key
    series, finite = [], []
    for number, arm in enumerate(arms):
        if arm.personal and not key.startswith(AT_CLIENTS):
            continue  # those of a head that nobody trained
        rounds, values = arm.drawn(key)
        known = values[np.isfinite(values)]
        if len(known):
            ends = {"mean": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
            series.append({"arm": number, "rounds": rounds, **{name: _json(v) for name, v in ends.items()}})
            finite.append(known)
    top = 1.15 * float(np.quantile(np.concatenate(finite), 0.95)) if finite and not percent else None
    return {"title": QUANTITIES[key], "percent": percent, "top": top, "series": series}


def _json(values: np.ndarray) -> list[float | None]:
    return [round(float(value), 5) if np.isfinite(value) else None for value in values]
