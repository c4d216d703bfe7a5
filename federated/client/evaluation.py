"""How good weights are on labelled images: loss, accuracy, and which images they classify correctly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from federated.client.features import head_weights
from federated.client.workspace import Workspace
from federated.data.partition import Partition, count_labels
from federated.data.sets import Split
from federated.weights import Weights
from fps_pretrain.images.pixels import normalise


class Outcome(NamedTuple):
    """What weights make of N examples.

    Attributes:
        loss: mean cross-entropy.
        correct: which examples they classify as their labels ``(N,)``.
    """

    loss: float
    correct: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """The share of the examples that are classified correctly."""
        return int(self.correct.sum()) / len(self.correct)


@torch.inference_mode()
def evaluate_examples(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    examples: Tensor,
    labels: Tensor,
    batch_size: int,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Outcome:
    """Loss and hits of ``weights``.

    Args:
        model: lends its structure; on the device of ``examples``.
        weights: a state dict of it.
        examples: ``(N, ...)``, N at least 1.
        labels: ``(N,)``.
        batch_size: examples that are judged at a time.
        prepare: from a batch of examples to the model's input; None for images, which are normalised.
    """
    model.load_state_dict(weights)
    model.eval()
    total_loss = torch.zeros((), dtype=torch.float64, device=examples.device)
    correct = []
    for start in range(0, len(labels), batch_size):
        target = labels[start : start + batch_size]
        batch = examples[start : start + batch_size]
        logits = model(prepare(batch) if prepare else normalise(batch))
        total_loss += F.cross_entropy(logits, target, reduction="sum").double()
        correct.append(logits.argmax(1) == target)
    return Outcome(float(total_loss) / len(labels), torch.cat(correct).cpu().numpy())


def evaluate(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, batch_size: int
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of ``weights`` on images ``(N, S, S, 3)`` and labels ``(N,)``, N at least 1."""
    outcome = evaluate_examples(model, weights, images, labels, batch_size)
    return outcome.loss, outcome.accuracy


def of_splits(space: Workspace, weights: Weights) -> dict[str, float | None]:
    """Loss and accuracy on the test and the validation examples; None where there is no validation set."""
    metrics: dict[str, float | None] = {}
    for name, split in (("test", space.dataset.test), ("val", space.dataset.validation)):
        loss, accuracy = None, None
        if len(split):
            examples = space.split("test" if name == "test" else "validation")
            outcome = _outcome(space, name, *examples, weights, by_features=space.config.train == "head")
            loss, accuracy = outcome.loss, outcome.accuracy
        metrics[f"{name}_accuracy"], metrics[f"{name}_loss"] = accuracy, loss
    return metrics


def correct_mask(space: Workspace, weights: Weights) -> NDArray[np.bool_]:
    """Which of the ``N`` test examples the weights classify correctly, ``(N,)``."""
    return _outcome(space, "test", *space.split("test"), weights, by_features=space.config.train == "head").correct


def at_client(space: Workspace, client: int, weights: Weights, *, own_encoder: bool = False) -> tuple[float, float]:
    """The loss on a client's held-out examples, and the accuracy that it can expect on examples like its own.

    The held-out examples are the test examples that there are here: all clients', or a node's own. A node without any
    is judged on its training examples.

    Args:
        space: has the examples.
        client: whose.
        weights: the model.
        own_encoder: the encoder is this client's alone, so that features of it are not kept for others.
    """
    has_test = len(space.dataset.test) > 0
    key, examples = ("test", space.split("test")) if has_test else (client, space.examples_of(client))
    outcome = _outcome(space, key, *examples, weights, by_features=not own_encoder)
    if space.config.partition == "nodes":
        return outcome.loss, outcome.accuracy
    return outcome.loss, float(accuracies_at(space, [client], outcome.correct)[0])


def accuracies_at(space: Workspace, clients: Sequence[int], correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``client_accuracies`` of some of a run's clients, given which test examples a model has right ``(N,)``."""
    dataset, partition = space.dataset, [space.partition[client] for client in clients]
    test, train = dataset.test, dataset.train
    if space.config.partition != "natural":  # a folder below a class need not be somebody's
        test, train = (replace(split, user_ids=None) for split in (test, train))
    return client_accuracies(correct, test, train, partition, len(dataset.classes))


def _outcome(
    space: Workspace, key: Any, images: Tensor, labels: Tensor, weights: Weights, *, by_features: bool
) -> Outcome:
    """Judge weights as they are or by features, which are kept as ``key`` for others with the same encoder."""
    size = space.config.eval_batch_size
    if not by_features:
        return evaluate_examples(space.model, weights, images, labels, size)
    features = space.features_of(key, images, weights)
    return evaluate_examples(space.head, head_weights(weights), features, labels, size, prepare=lambda batch: batch)


def client_accuracies(
    correct_mask: NDArray[np.bool_], test: Split, train: Split, partition: Partition, num_classes: int
) -> NDArray[np.float64]:
    """The accuracy that each client can expect of a model on examples like its own, ``(clients,)``.

    Clients share one test set. Where it has user ids and a client's users made some of it, those are counted.
    Otherwise a partition by labels has given clients different classes of the same images: the accuracy on each class
    is weighted by its share of the client's training examples. A class that the test set lacks is left out; a client
    that has no other cannot be judged and has NaN.

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
    sizes = counts.sum(axis=1)
    accuracies = np.where(sizes > 0, counts @ per_class / np.maximum(sizes, 1), np.nan)
    if train.user_ids is not None and test.user_ids is not None:
        for client, part in enumerate(partition):
            own = np.isin(test.user_ids, np.unique(train.user_ids[part]))
            if own.any():
                accuracies[client] = correct_mask[own].mean()
    return accuracies
