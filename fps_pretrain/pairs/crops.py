"""Pairs of two crops of one image, wherever the image comes from; augmented as fractal pairs are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fps_pretrain.fractals.augment.crop import crop_box
from fps_pretrain.fractals.augment.scratch import empty_view_scratch
from fps_pretrain.fractals.augment.view import augment
from fps_pretrain.fractals.batch import augmentation_key
from fps_pretrain.fractals.compose.colours import pack
from fps_pretrain.fractals.recipe_numbers import DEFAULT_VIEW_NUMBERS, ViewNumbers
from fps_pretrain.fractals.rng import PAIR_STREAM, make_key
from fps_pretrain.pairs.sources import MadeBy

_WHOLE = {"crop_low": 1.0, "crop_high": 1.0, "crop_ratio": 1.0}
"""The numbers of a crop that is all of a square image."""


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """An image ``(H, W, 3)``, uint8, as ``(size, size, 3)``: bilinear, and averaged where it is shrunk (antialiasing).

    What torchvision's RandomResizedCrop does to a crop.
    """
    planes = torch.from_numpy(image.transpose(2, 0, 1)).unsqueeze(0)
    planes = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())


def augmented_crop(image: np.ndarray, size: int, numbers: ViewNumbers, key: np.uint64) -> np.ndarray:
    """One view of an image, augmented as a view of fractals, but that a crop larger than the view is antialiased.

    Fractals are drawn at the size of the view, so that their crops are never shrunk.

    Args:
        image: ``(H, W, 3)``, uint8, RGB.
        size: side of the view in pixels.
        numbers: of the augmentation.
        key: the view's augmentation key.

    Returns:
        ``(3, size, size)``, float32, normalised.
    """
    top, left, height, width = crop_box(image.shape[0], image.shape[1], numbers, key)
    if max(height, width) > size:
        image, numbers = resized(image[top : top + height, left : left + width], size), numbers._replace(**_WHOLE)
    out = np.empty((3, size, size), np.float32)
    augment(pack(image), numbers, key, empty_view_scratch(image.shape[1], size), out)
    return out


class CropPairs(ABC):
    """A ``sources.PairSource`` that shows one image in both views. (seed, epoch, index) fixes a pair.

    Args:
        size: side of a view in pixels.
        seed: fixes images and crops.
        numbers: of the augmentation.
    """

    made_by: MadeBy = "processes"

    def __init__(self, size: int, seed: int, numbers: ViewNumbers = DEFAULT_VIEW_NUMBERS) -> None:
        self.size = size
        self.seed = seed
        self.numbers = numbers

    @abstractmethod
    def image(self, epoch: int, index: int) -> np.ndarray:
        """The image of pair ``index`` of an epoch: ``(H, W, 3)``, uint8, RGB."""

    def batch(self, epoch: int, first: int, count: int, threads: int = 1) -> Tensor:
        """See ``sources.PairSource``."""
        out = np.empty((2, count, 3, self.size, self.size), np.float32)
        for i in range(count):
            image, key = self.image(epoch, first + i), np.uint64(make_key(self.seed, PAIR_STREAM, epoch, first + i))
            for view in range(2):
                out[view, i] = augmented_crop(image, self.size, self.numbers, np.uint64(augmentation_key(key, view)))
        return torch.from_numpy(out)

    def description(self) -> dict[str, Any]:
        """See ``sources.PairSource``."""
        return {"size": self.size, "augment": self.numbers._asdict()}
