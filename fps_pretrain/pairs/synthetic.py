"""Pairs of two crops of a synthetic image that is no fractal: what fractals are compared with.

Both models of images are among those of Baradad, Wulff, Wang, Isola and Torralba, "Learning to See by Looking at
Noise", NeurIPS 2021. There is no end of images: every pair has one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from fps_pretrain.fractals.recipe_numbers import DEFAULT_VIEW_NUMBERS, ViewNumbers
from fps_pretrain.fractals.rng import IMAGE_STREAM
from fps_pretrain.pairs.crops import CropPairs

LEAVES_PER_IMAGE = 100
"""They cover all but a few hundredths of an image; what is left shows the colour behind them."""
SMALLEST_LEAF, LARGEST_LEAF = 1 / 16, 1 / 2
"""Radii, as parts of the image's side."""
CORNERS = (3, 4, 5, 6, 16)
"""Of a leaf, each as often; the last is nearly a circle."""
POWERS = (0.5, 3.5)
"""The range of the two exponents of a noise image's spectrum (Baradad et al., section 3.3)."""
_FRACTION_BITS = 4


def dead_leaves(size: int, random: np.random.Generator) -> np.ndarray:
    """Draw shapes of random colours that hide one another (Lee, Mumford and Huang, IJCV 2001).

    Radii have a density proportional to r^-3, so that the picture looks the same at every scale.

    Args:
        size: side of the image in pixels.
        random: the stream of this image.

    Returns:
        ``(size, size, 3)``, uint8.
    """
    uniform = random.random((LEAVES_PER_IMAGE, 4))
    low, high = SMALLEST_LEAF**-2, LARGEST_LEAF**-2
    radii = size * (low - uniform[:, :1] * (low - high)) ** -0.5
    corners = random.choice(CORNERS, (LEAVES_PER_IMAGE, 1))
    # A leaf with fewer corners than there is room for repeats its last one.
    angles = 2 * math.pi * (uniform[:, 1:2] + np.minimum(np.arange(max(CORNERS)), corners - 1) / corners)
    centres = uniform[:, 2:] * size
    outlines = centres[:, None] + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 2)
    points = np.round(outlines * (1 << _FRACTION_BITS)).astype(np.int32)
    colours = random.integers(0, 256, (LEAVES_PER_IMAGE + 1, 3)).tolist()
    image = np.full((size, size, 3), colours.pop(), np.uint8)
    for outline, colour in zip(points, colours, strict=True):
        cv2.fillConvexPoly(image, outline, colour, cv2.LINE_8, _FRACTION_BITS)
    return image


def noise(size: int, random: np.random.Generator) -> np.ndarray:
    """Draw coloured noise of amplitude 1 / (|fx|^a + |fy|^b), with a and b of its own for each image.

    Args:
        size: side of the image in pixels.
        random: the stream of this image.

    Returns:
        ``(size, size, 3)``, uint8; the channels are correlated, each with mean 127 and a deviation of 64, less what is
        clipped.
    """
    powers = random.uniform(*POWERS, 2)
    y, x = np.abs(np.fft.fftfreq(size))[:, None], np.fft.rfftfreq(size)[None, :]
    amplitude = 1 / np.maximum(x ** powers[0] + y ** powers[1], 1e-9)
    amplitude[0, 0] = 0
    white = np.fft.rfft2(random.standard_normal((3, size, size)))
    field = np.fft.irfft2(white * amplitude, s=(size, size)).transpose(1, 2, 0) @ random.standard_normal((3, 3))
    field /= np.maximum(field.std((0, 1)), 1e-12)
    return np.clip(127.5 + 64 * field, 0, 255).astype(np.uint8)


KINDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {"dead-leaves": dead_leaves, "noise": noise}
"""What draws an image, by the name of ``--source``."""


class SyntheticPairs(CropPairs):
    """Pairs of two augmented crops of one image of ``KINDS``, of the side of a view.

    Args:
        kind: a name of ``KINDS``.
        size: side of a view in pixels.
        seed: fixes images and crops.
        numbers: of the augmentation.
    """

    def __init__(self, kind: str, size: int, seed: int, numbers: ViewNumbers = DEFAULT_VIEW_NUMBERS) -> None:
        super().__init__(size, seed, numbers)
        self.kind = kind

    def image(self, epoch: int, index: int) -> np.ndarray:
        """See ``CropPairs``."""
        return KINDS[self.kind](self.size, np.random.default_rng([self.seed, IMAGE_STREAM, epoch, index]))

    def description(self) -> dict[str, Any]:
        """See ``sources.PairSource``."""
        return {"source": self.kind, **super().description()}
