"""How good are frozen features? Nearest neighbours, a linear classifier, and finding a pair's other view."""

from __future__ import annotations

import numpy as np
import torch
from lightly.utils.benchmarking.knn import knn_predict
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.images.pixels import normalise
from fps_pretrain.probing.probe_data import ProbeData

NEIGHBOURS = 20
TEMPERATURE = 0.1


@torch.inference_mode()
def features_of(encoder: nn.Module, views: Tensor, batch_size: int = 512) -> Tensor:
    """Features of the encoder in evaluation mode, of length 1.

    Args:
        encoder: float images ``(N, 3, H, W)`` to features ``(N, D)``; its mode is restored.
        views: ``(N, 3, H, W)`` normalised, or ``(N, H, W, 3)`` uint8 RGB.
        batch_size: images at a time.

    Returns:
        ``(N, D)``, float32 on the CPU.
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    features = []
    # An encoder may be compiled for batches of training; other shapes would be compiled anew, which takes a minute.
    with torch.compiler.set_stance("force_eager"):
        for chunk in views.split(batch_size):
            chunk = chunk.to(device)
            chunk = normalise(chunk) if chunk.dtype == torch.uint8 else chunk
            features.append(F.normalize(encoder(chunk).float(), dim=1).cpu())
    encoder.train(was_training)
    return torch.cat(features)


def extract_features(encoder: nn.Module, images: np.ndarray, batch_size: int = 512) -> Tensor:
    """``features_of`` images ``(N, H, W, 3)``, uint8 RGB."""
    return features_of(encoder, torch.from_numpy(images), batch_size)


def knn_accuracy(
    bank: Tensor, bank_labels: np.ndarray, queries: Tensor, labels: np.ndarray, neighbours: int = NEIGHBOURS
) -> float:
    """Share of the queries whose label the weighted vote of their nearest neighbours in the bank predicts.

    The vote weighs cosine similarities with exp(similarity / 0.1) (Wu et al., CVPR 2018, section 3.4).

    Args:
        bank: features of labelled images, ``(M, D)`` of length 1.
        bank_labels: their labels ``(M,)``, from 0.
        queries: features of the images to classify, ``(N, D)`` of length 1; not the test set if anything is chosen by
            the result.
        labels: their labels ``(N,)``.
        neighbours: how many vote.

    Returns:
        Accuracy in [0, 1].
    """
    targets = torch.from_numpy(np.asarray(bank_labels, dtype=np.int64))
    classes = int(max(bank_labels.max(), labels.max())) + 1
    columns = bank.T.contiguous()
    correct = 0
    for start in range(0, len(queries), 1024):
        votes = knn_predict(
            queries[start : start + 1024], columns, targets, classes, min(neighbours, len(targets)), TEMPERATURE
        )
        correct += int((votes[:, 0].numpy() == labels[start : start + 1024]).sum())
    return correct / len(labels)


def linear_accuracy(bank: Tensor, bank_labels: np.ndarray, queries: Tensor, labels: np.ndarray) -> float:
    """Accuracy of multinomial logistic regression from the bank's features to the queries'.

    It is solved to convergence, so that no learning rate or seed has a say in it (Kornblith et al., CVPR 2019, section
    3), on features of unit variance with scikit-learn's default penalty. Arguments are those of ``knn_accuracy``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    classifier.fit(bank.numpy(), bank_labels)
    return float(classifier.score(queries.numpy(), labels))


def probe(encoder: nn.Module, data: ProbeData, linear: bool = False) -> dict[str, float]:
    """``knn_accuracy`` and, if wanted, ``linear_accuracy`` of a frozen encoder, in [0, 1]."""
    bank, queries = extract_features(encoder, data.bank_images), extract_features(encoder, data.images)
    result = {"knn_accuracy": knn_accuracy(bank, data.bank_labels, queries, data.labels)}
    if linear:
        result["linear_accuracy"] = linear_accuracy(bank, data.bank_labels, queries, data.labels)
    return result
