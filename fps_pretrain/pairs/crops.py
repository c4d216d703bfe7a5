"""Pairs of two crops of one image, wherever the image comes from; augmented as fractal pairs are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fps_pretrain.fractals.batch import augment_pair
from fps_pretrain.fractals.compose.colours import pack
from fps_pretrain.fractals.recipe_numbers import DEFAULT_VIEW_NUMBERS, ViewNumbers
from fps_pretrain.fractals.rng import PAIR_STREAM, make_key
from fps_pretrain.pairs.sources import MadeBy


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
            packed = pack(self.image(epoch, first + i))
            key = make_key(self.seed, PAIR_STREAM, epoch, first + i)
            out[:, i] = augment_pair(np.stack([packed, packed]), key, self.size, self.numbers)
        return torch.from_numpy(out)

    def description(self) -> dict[str, Any]:
        """See ``sources.PairSource``."""
        return {"size": self.size, "augment": self.numbers._asdict()}
