"""From uint8 images to what an encoder takes."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of each channel (red, green, blue) of ImageNet's images, in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of each channel of ImageNet's images.

Pre-training normalises its views with these, so every user of an encoder must, too (see ``normalise``).
"""


def normalise(images: Tensor) -> Tensor:
    """The encoder's input of images: uint8 ``(N, H, W, 3)`` RGB to float ``(N, 3, H, W)``, in channels_last memory."""
    # What is made while a model is compiled or exported is none to keep.
    statistics = _statistics.__wrapped__ if torch.compiler.is_compiling() else _statistics
    mean, std = statistics(images.device)
    return (images.permute(0, 3, 1, 2).float() - 255 * mean) / (255 * std)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each ``(3, 1, 1)``; kept, since a GPU waits for what comes from main memory."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std
