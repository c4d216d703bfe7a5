"""How the global model does at each client, and what the clients reported: a warm start should help the worst, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated.algorithms.base import Update
from federated.data.partition import Partition, count_labels
from federated.data.sets import Split

WORST = 0.1
"""The share of clients that counts as the worst."""


def client_accuracies(
    correct_mask: NDArray[np.bool_], test: Split, train: Split, partition: Partition, num_classes: int
) -> NDArray[np.float64]:
    """The accuracy that each client can expect of a model on examples like its own, ``(clients,)``.

    Clients share one test set. Where it has user ids and a client's users made some of it, those are counted.
    Otherwise a partition by labels has given clients different classes of the same images: the accuracy on each class
    is weighted by its share of the client's training examples. A class that the test set lacks is left out.

    Args:
        correct_mask: which test examples the model has right ``(N,)``.
        test: the test examples.
        train: the training examples that ``partition`` is of.
        partition: which client has which.
        num_classes: C.
    """
    seen = np.bincount(test.labels, minlength=num_classes)
    per_class = np.bincount(test.labels, weights=correct_mask, minlength=num_classes) / np.maximum(seen, 1)
    counts = count_labels(partition, train.labels, num_classes) * (seen > 0)
    accuracies = counts @ per_class / np.maximum(counts.sum(axis=1), 1)
    if train.user_ids is not None and test.user_ids is not None:
        for client, part in enumerate(partition):
            own = np.isin(test.user_ids, np.unique(train.user_ids[part]))
            if own.any():
                accuracies[client] = correct_mask[own].mean()
    return accuracies


def summarise(accuracies: NDArray[np.float64]) -> dict[str, Any]:
    """A row's entries: mean, standard deviation and worst tenth over the clients, and the accuracy of each.

    Clients that did not answer have NaN, in the row None, and are left out of the others; without any there are none.
    """
    found = np.sort(accuracies[np.isfinite(accuracies)])
    if not len(found):
        return {}
    worst = found[: max(1, round(WORST * len(found)))]
    return {
        "client_accuracy_mean": float(found.mean()),
        "client_accuracy_std": float(found.std()),
        "client_accuracy_worst_tenth": float(worst.mean()),
        "client_accuracies": [round(float(a), 6) if np.isfinite(a) else None for a in accuracies],
    }


def reported(updates: Mapping[int, Update]) -> dict[str, list[Any]]:
    """A row's entry for what clients reported of their training, in client order, a list for each quantity."""
    clients = sorted(updates)
    return {
        "client": clients,
        "examples": [updates[client].num_examples for client in clients],
        "train_loss": [updates[client].metrics["train_loss"] for client in clients],
    }
