"""View augmentation of both methods, compiled and keyed (Chen et al., ICLR 2023, appendix; He et al., 2020).

RandomResizedCrop with scale (0.2, 1), ColorJitter(0.4, 0.4, 0.4, 0.1) with probability 0.8, grayscale with 0.2,
Gaussian blur of kernel 5 with 0.5, horizontal flip with 0.5, ImageNet normalisation: torchvision's definitions, drawn
from a pair's own random stream.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fps_pretrain.fractals.pairs import compose_pair
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.fractals.rng import chance, integer, uniform_in
from fps_pretrain.models import IMAGENET_MEAN, IMAGENET_STD


@njit(cache=True, nogil=True)
def _crop_box(height: int, width: int, state: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop of 20% to 100% of the area, aspect 3/4 to 4/3."""
    for _ in range(10):
        area = height * width * uniform_in(state, 0.2, 1.0)
        ratio = math.exp(uniform_in(state, math.log(3.0 / 4.0), math.log(4.0 / 3.0)))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return integer(state, height - h + 1), integer(state, width - w + 1), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


@njit(cache=True, nogil=True)
def _resized_crop(image: np.ndarray, flip: bool, state: np.ndarray, out: np.ndarray) -> None:
    """Crop ``image (H, W, 3)`` uint8 at random and resize it to ``out (3, size, size)``, float32 in [0, 1]."""
    top, left, height, width = _crop_box(image.shape[0], image.shape[1], state)
    size = out.shape[1]
    scale_y, scale_x = height / size, width / size
    for y in range(size):
        sy = min(max((y + 0.5) * scale_y - 0.5, 0.0), height - 1.0)
        y0 = int(sy)
        wy = np.float32(sy - y0)
        upper, lower = top + y0, top + min(y0 + 1, height - 1)
        for x in range(size):
            sx = min(max((x + 0.5) * scale_x - 0.5, 0.0), width - 1.0)
            x0 = int(sx)
            wx = np.float32(sx - x0)
            near, far = left + x0, left + min(x0 + 1, width - 1)
            column = size - 1 - x if flip else x
            for c in range(3):
                a = np.float32(image[upper, near, c])
                b = np.float32(image[upper, far, c])
                d = np.float32(image[lower, near, c])
                e = np.float32(image[lower, far, c])
                above = a + wx * (b - a)
                below = d + wx * (e - d)
                out[c, y, column] = (above + wy * (below - above)) * np.float32(1.0 / 255.0)


@njit(cache=True, nogil=True, inline="always")
def _luma(r: np.float32, g: np.float32, b: np.float32) -> np.float32:
    return np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b


@njit(cache=True, nogil=True)
def _clamp(value: np.float32) -> np.float32:
    return min(max(value, np.float32(0.0)), np.float32(1.0))


@njit(cache=True, nogil=True)
def _brightness(out: np.ndarray, factor: float) -> None:
    flat = out.reshape(-1)
    f = np.float32(factor)
    for i in range(flat.size):
        flat[i] = _clamp(flat[i] * f)


@njit(cache=True, nogil=True)
def _contrast(out: np.ndarray, factor: float) -> None:
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    total = np.float32(0.0)
    for i in range(red.size):
        total += _luma(red[i], green[i], blue[i])
    f = np.float32(factor)
    offset = (np.float32(1.0) - f) * total / np.float32(red.size)
    flat = out.reshape(-1)
    for i in range(flat.size):
        flat[i] = _clamp(flat[i] * f + offset)


@njit(cache=True, nogil=True)
def _saturation(out: np.ndarray, factor: float) -> None:
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    f = np.float32(factor)
    for i in range(red.size):
        grey = (np.float32(1.0) - f) * _luma(red[i], green[i], blue[i])
        red[i] = _clamp(red[i] * f + grey)
        green[i] = _clamp(green[i] * f + grey)
        blue[i] = _clamp(blue[i] * f + grey)


@njit(cache=True, nogil=True)
def _hue(out: np.ndarray, shift: float) -> None:
    """Turn every pixel's hue by ``shift`` of a full turn, keeping HSV saturation and value."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = max(r, g, b)
        chroma = value - min(r, g, b)
        if chroma <= np.float32(0.0):
            continue
        if value == r:
            sector = (g - b) / chroma
        elif value == g:
            sector = np.float32(2.0) + (b - r) / chroma
        else:
            sector = np.float32(4.0) + (r - g) / chroma
        sector += np.float32(6.0 * shift)
        # The three channels are one trapezoid of the hue, read at offsets 5, 3 and 1 sixths of a turn.
        for c in range(3):
            k = sector + np.float32(5.0 - 2.0 * c)
            k -= np.float32(6.0) * math.floor(k / np.float32(6.0))
            level = value - chroma * max(np.float32(0.0), min(k, np.float32(4.0) - k, np.float32(1.0)))
            if c == 0:
                red[i] = level
            elif c == 1:
                green[i] = level
            else:
                blue[i] = level


@njit(cache=True, nogil=True)
def _color_jitter(out: np.ndarray, state: np.ndarray) -> None:
    """Brightness, contrast and saturation by U(0.6, 1.4), hue by U(-0.1, 0.1), in random order."""
    order = np.arange(4)
    for k in range(3, 0, -1):
        j = integer(state, k + 1)
        order[k], order[j] = order[j], order[k]
    for k in range(4):
        if order[k] == 0:
            _brightness(out, uniform_in(state, 0.6, 1.4))
        elif order[k] == 1:
            _contrast(out, uniform_in(state, 0.6, 1.4))
        elif order[k] == 2:
            _saturation(out, uniform_in(state, 0.6, 1.4))
        else:
            _hue(out, uniform_in(state, -0.1, 0.1))


@njit(cache=True, nogil=True)
def _grayscale(out: np.ndarray) -> None:
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    for i in range(red.size):
        grey = _luma(red[i], green[i], blue[i])
        red[i] = grey
        green[i] = grey
        blue[i] = grey


@njit(cache=True, nogil=True)
def _blur5(out: np.ndarray, sigma: float) -> None:
    """Gaussian blur with a kernel of 5, borders mirrored without repeating the edge."""
    near = math.exp(-0.5 / (sigma * sigma))
    far = math.exp(-2.0 / (sigma * sigma))
    total = 1.0 + 2.0 * (near + far)
    w0, w1, w2 = np.float32(1.0 / total), np.float32(near / total), np.float32(far / total)
    size = out.shape[1]
    padded = np.empty(size + 4, np.float32)
    rows = np.empty((size, size), np.float32)
    for c in range(3):
        for y in range(size):
            for x in range(size):
                padded[x + 2] = out[c, y, x]
            padded[1], padded[0] = out[c, y, 1], out[c, y, 2]
            padded[size + 2], padded[size + 3] = out[c, y, size - 2], out[c, y, size - 3]
            for x in range(size):
                rows[y, x] = (
                    w0 * padded[x + 2] + w1 * (padded[x + 1] + padded[x + 3]) + w2 * (padded[x] + padded[x + 4])
                )
        for y in range(size):
            up1, up2 = abs(y - 1), abs(y - 2)
            down1, down2 = size - 1 - abs(size - 2 - y), size - 1 - abs(size - 3 - y)
            for x in range(size):
                out[c, y, x] = (
                    w0 * rows[y, x] + w1 * (rows[up1, x] + rows[down1, x]) + w2 * (rows[up2, x] + rows[down2, x])
                )


@njit(cache=True, nogil=True)
def augment(image: np.ndarray, state: np.ndarray, out: np.ndarray) -> None:
    """One random view of an image.

    Args:
        image: ``(H, W, 3)``, uint8 RGB.
        state: the random stream.
        out: output ``(3, size, size)``, float32, C-contiguous, normalised with ImageNet's mean and deviation.
    """
    _resized_crop(image, chance(state, 0.5), state, out)
    if chance(state, 0.8):
        _color_jitter(out, state)
    if chance(state, 0.2):
        _grayscale(out)
    if chance(state, 0.5):
        _blur5(out, uniform_in(state, 0.1, 2.0))
    for c in range(3):
        mean, scale = np.float32(IMAGENET_MEAN[c]), np.float32(1.0 / IMAGENET_STD[c])
        plane = out[c].reshape(-1)
        for i in range(plane.size):
            plane[i] = (plane[i] - mean) * scale


@njit(cache=True, nogil=True)
def fractal_batch(recipe: Recipe, seed: int, epoch: int, first: int, out: np.ndarray) -> None:
    """Compose and augment consecutive pairs of an epoch.

    Args:
        recipe: what pairs look like.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        first: index of the first pair.
        out: output ``(2, batch, 3, size, size)``, float32, normalised: first views, then second views.
    """
    composed = np.empty((2, recipe.size, recipe.size, 3), np.uint8)
    for i in range(out.shape[1]):
        state = compose_pair(recipe, seed, epoch, first + i, composed)
        for view in range(2):
            augment(composed[view], state, out[view, i])
