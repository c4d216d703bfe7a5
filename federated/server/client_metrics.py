"""How the global model does at each client, and what the clients reported: a warm start should help the worst, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated.algorithms.base import Update

WORST = 0.1
"""The share of clients that counts as the worst."""


def summarise(accuracies: NDArray[np.float64], name: str = "client") -> dict[str, Any]:
    """A row's entries: mean, standard deviation and worst tenth over the clients, and the accuracy of each.

    Clients that did not answer have NaN, in the row None, and are left out of the others; without any there are none.

    Args:
        accuracies: of each client ``(clients,)``.
        name: what the entries' names begin with: client, or fine_tuned.
    """
    found = np.sort(accuracies[np.isfinite(accuracies)])
    if not len(found):
        return {}
    worst = found[: max(1, round(WORST * len(found)))]
    return {
        f"{name}_accuracy_mean": float(found.mean()),
        f"{name}_accuracy_std": float(found.std()),
        f"{name}_accuracy_worst_tenth": float(worst.mean()),
        f"{name}_accuracies": [round(float(a), 6) if np.isfinite(a) else None for a in accuracies],
    }


def reported(updates: Mapping[int, Update]) -> dict[str, list[Any]]:
    """A row's entry for what clients reported of their training, in client order, a list for each quantity."""
    clients = sorted(updates)
    return {
        "client": clients,
        "examples": [updates[client].num_examples for client in clients],
        "train_loss": [updates[client].metrics["train_loss"] for client in clients],
    }
