"""One augmented view of an image, in torchvision's definitions, drawn from the view's own key.

RandomResizedCrop with scale (0.2, 1), horizontal flip with probability 0.5, ColorJitter(0.4, 0.4, 0.4, 0.1) with 0.8,
grey with 0.2, Gaussian blur of kernel 5 with 0.5, normalisation with ImageNet's mean and deviation (authors' release).
"""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.augment.blur import blur5
from fps_pretrain.fractals.augment.colour import color_jitter, grayscale
from fps_pretrain.fractals.augment.crop import resized_crop
from fps_pretrain.fractals.augment.scratch import ViewScratch
from fps_pretrain.fractals.augment.slots import SLOT_BLUR, SLOT_GREY, SLOT_JITTER, SLOT_SIGMA
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.recipe_numbers import ViewNumbers
from fps_pretrain.fractals.rng import chance, uniform_in
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD


@kernel()
def augment(image: np.ndarray, numbers: ViewNumbers, key: np.uint64, scratch: ViewScratch, out: np.ndarray) -> None:
    """Augment an image.

    Args:
        image: ``(H, W)``, uint32, packed colours.
        numbers: the recipe's.
        key: the view's augmentation key.
        scratch: from ``empty_view_scratch`` for a width of at least W and for the size of the view.
        out: output ``(3, size, size)``, float32, C-contiguous, normalised with ImageNet's mean and deviation.
    """
    resized_crop(image, numbers, key, scratch, out)
    if chance(key, SLOT_JITTER, numbers.colour_probability):
        color_jitter(out, numbers, key, scratch.sums)
    if chance(key, SLOT_GREY, numbers.grey_probability):
        grayscale(out)
    if chance(key, SLOT_BLUR, numbers.blur_probability):
        blur5(out, uniform_in(key, SLOT_SIGMA, numbers.blur_low, numbers.blur_high), scratch.plane)
    for c in range(3):
        mean, scale = np.float32(IMAGENET_MEAN[c]), np.float32(1.0 / IMAGENET_STD[c])
        plane = out[c].reshape(-1)
        for i in range(plane.size):
            plane[i] = (plane[i] - mean) * scale
