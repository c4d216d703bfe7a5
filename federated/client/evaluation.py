"""How good weights are on labelled images: loss, accuracy, and which images they classify correctly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.images.pixels import normalise


@torch.inference_mode()
def evaluate(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, batch_size: int
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of ``weights`` on images ``(N, S, S, 3)`` and labels ``(N,)``, N at least 1."""
    model.load_state_dict(weights)
    model.eval()
    total_loss = torch.zeros((), dtype=torch.float64, device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    for start in range(0, len(labels), batch_size):
        target = labels[start : start + batch_size]
        logits = model(normalise(images[start : start + batch_size]))
        total_loss += F.cross_entropy(logits, target, reduction="sum").double()
        correct += (logits.argmax(1) == target).sum()
    return float(total_loss) / len(labels), int(correct) / len(labels)


@torch.inference_mode()
def correct_mask(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, batch_size: int
) -> NDArray[np.bool_]:
    """Which images ``(N, S, S, 3)`` the weights classify as their labels ``(N,)``: booleans ``(N,)``."""
    model.load_state_dict(weights)
    model.eval()
    batches = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    found = [model(normalise(images[batch])).argmax(1) == labels[batch] for batch in batches]
    return torch.cat(found).cpu().numpy()
