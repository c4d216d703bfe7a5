"""How good are frozen features? k-nearest-neighbour accuracy on labelled images the encoder was not trained on."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from lightly.utils.benchmarking.knn import knn_predict
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.models import normalise

NEIGHBOURS = 20
TEMPERATURE = 0.1


@torch.inference_mode()
def extract_features(encoder: nn.Module, images: np.ndarray, batch_size: int = 512) -> Tensor:
    """Features of the encoder in evaluation mode, of length 1.

    Args:
        encoder: float images ``(N, 3, H, W)`` to features ``(N, D)``; its mode is restored.
        images: ``(N, H, W, 3)``, uint8 RGB.
        batch_size: images at a time.

    Returns:
        ``(N, D)``, float32 on the CPU.
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    features = []
    for chunk in torch.from_numpy(images).split(batch_size):
        features.append(F.normalize(encoder(normalise(chunk.to(device))).float(), dim=1).cpu())
    encoder.train(was_training)
    return torch.cat(features)


def knn_accuracy(
    encoder: nn.Module,
    bank_images: np.ndarray,
    bank_labels: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    neighbours: int = NEIGHBOURS,
) -> float:
    """Share of ``images`` whose label the weighted vote of their nearest neighbours in the bank predicts.

    The vote weighs cosine similarities with exp(similarity / 0.1) (Wu et al., CVPR 2018, section 3.4).

    Args:
        encoder: the frozen encoder.
        bank_images: labelled images to look neighbours up in, ``(M, H, W, 3)`` uint8.
        bank_labels: their labels ``(M,)``, from 0.
        images: images to classify, ``(N, H, W, 3)`` uint8; not the test set if anything is chosen by the result.
        labels: their labels ``(N,)``.
        neighbours: how many vote.

    Returns:
        Accuracy in [0, 1].
    """
    bank = extract_features(encoder, bank_images).T.contiguous()
    bank_targets = torch.from_numpy(np.asarray(bank_labels, dtype=np.int64))
    classes = int(max(bank_labels.max(), labels.max())) + 1
    queries = extract_features(encoder, images)
    correct = 0
    for start in range(0, len(queries), 1024):
        votes = knn_predict(
            queries[start : start + 1024], bank, bank_targets, classes, min(neighbours, len(bank_targets)), TEMPERATURE
        )
        correct += int((votes[:, 0].numpy() == labels[start : start + 1024]).sum())
    return correct / len(labels)


def digits_knn(encoder: nn.Module, size: int) -> float:
    """kNN accuracy on scikit-learn's handwritten digits: 1,200 in the bank, the other 597 classified.

    The digits come with scikit-learn, so that every checkpoint can carry this number without a download. It says
    whether features separate simple shapes, not how a federation on photographs will go.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = (digits.images * (255.0 / 16.0)).astype(np.uint8)
    images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in grey])
    bank, query = train_test_split(np.arange(len(images)), train_size=1200, stratify=digits.target, random_state=0)
    rgb = np.repeat(images[..., None], 3, axis=3)
    return knn_accuracy(encoder, rgb[bank], digits.target[bank], rgb[query], digits.target[query])
