"""Colour jitter and grey, as torchvision defines them.

Loops run over whole planes and choose by selects instead of branches, so that the compiler vectorises them.
"""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.augment.slots import SLOT_FACTORS, SLOT_ORDER
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.recipe_numbers import ViewNumbers
from fps_pretrain.fractals.rng import integer, uniform_in

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@kernel(inline="always")
def _luma(r: np.float32, g: np.float32, b: np.float32) -> np.float32:
    """The grey of a colour, ITU-R 601."""
    return np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b


@kernel(inline="always")
def _clamp(value: np.float32) -> np.float32:
    """Limit a value to [0, 1]."""
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


@kernel()
def brightness(out: np.ndarray, factor: float) -> None:
    """torchvision's ``adjust_brightness`` of ``out (3, size, size)``, in place."""
    flat = out.reshape(-1)
    f = np.float32(factor)
    for i in range(flat.size):
        flat[i] = _clamp(flat[i] * f)


@kernel()
def mean_luma(out: np.ndarray, sums: np.ndarray) -> np.float32:
    """The mean grey of ``out (3, size, size)``; ``sums (size,)``, float32, is scratch."""
    size = out.shape[1]
    sums[:] = _ZERO
    for y in range(size):
        red, green, blue = out[0, y], out[1, y], out[2, y]
        for x in range(size):
            sums[x] += _luma(red[x], green[x], blue[x])
    total = 0.0
    for x in range(size):
        total += sums[x]
    return np.float32(total / (size * size))


@kernel()
def contrast(out: np.ndarray, factor: float, sums: np.ndarray) -> None:
    """torchvision's ``adjust_contrast`` of ``out (3, size, size)``, in place; ``sums (size,)``, float32, is scratch."""
    f = np.float32(factor)
    offset = (_ONE - f) * mean_luma(out, sums)
    flat = out.reshape(-1)
    for i in range(flat.size):
        flat[i] = _clamp(flat[i] * f + offset)


@kernel()
def saturation(out: np.ndarray, factor: float) -> None:
    """torchvision's ``adjust_saturation`` of ``out (3, size, size)``, in place."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    f = np.float32(factor)
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        grey = (_ONE - f) * _luma(r, g, b)
        red[i] = _clamp(r * f + grey)
        green[i] = _clamp(g * f + grey)
        blue[i] = _clamp(b * f + grey)


@kernel(inline="always")
def _channel(sector: np.float32, offset: np.float32, value: np.float32, chroma: np.float32) -> np.float32:
    """HSV to RGB: the channel with offset 5 (red), 3 (green) or 1 (blue); ``sector`` is the hue in sixths of a turn."""
    k = sector + offset
    k = k if k < np.float32(6.0) else k - np.float32(6.0)
    falling = np.float32(4.0) - k
    k = k if k < falling else falling
    return value - chroma * _clamp(k)


@kernel()
def hue(out: np.ndarray, shift: float) -> None:
    """torchvision's ``adjust_hue`` of ``out (3, size, size)``, in place: by ``shift`` of a turn, -0.5 to 0.5."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    turn = np.float32(6.0 * shift)
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = r if r > g else g
        value = value if value > b else b
        least = r if r < g else g
        least = least if least < b else b
        chroma = value - least
        scale = _ONE / (chroma if chroma > _ZERO else _ONE)
        by_blue = np.float32(4.0) + (r - g) * scale
        by_green = np.float32(2.0) + (b - r) * scale
        by_red = (g - b) * scale
        sector = by_red if value == r else (by_green if value == g else by_blue)
        sector += turn
        sector = sector if sector >= _ZERO else sector + np.float32(6.0)
        sector = sector if sector < np.float32(6.0) else sector - np.float32(6.0)
        red[i] = _channel(sector, np.float32(5.0), value, chroma)
        green[i] = _channel(sector, np.float32(3.0), value, chroma)
        blue[i] = _channel(sector, np.float32(1.0), value, chroma)


@kernel()
def color_jitter(out: np.ndarray, numbers: ViewNumbers, key: np.uint64, sums: np.ndarray) -> None:
    """Change brightness, contrast, saturation and hue by random amounts, in random order, in place.

    Args:
        out: ``(3, size, size)``, float32, in [0, 1].
        numbers: the recipe's.
        key: the view's augmentation key.
        sums: scratch, ``(size,)``, float32.
    """
    done = 0
    for k in range(4):
        # Choose the j-th of the operations that are left.
        j = integer(key, SLOT_ORDER + k, 4 - k)
        operation = 0
        while (done >> operation) & 1 or j > 0:
            j -= 1 - ((done >> operation) & 1)
            operation += 1
        done |= 1 << operation
        drawn = uniform_in(key, SLOT_FACTORS + operation, -1.0, 1.0)
        if operation == 0:
            brightness(out, 1.0 + numbers.brightness * drawn)
        elif operation == 1:
            contrast(out, 1.0 + numbers.contrast * drawn, sums)
        elif operation == 2:
            saturation(out, 1.0 + numbers.saturation * drawn)
        else:
            hue(out, numbers.hue * drawn)


@kernel()
def grayscale(out: np.ndarray) -> None:
    """torchvision's ``rgb_to_grayscale`` to three channels of ``out (3, size, size)``, in place."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    for i in range(red.size):
        grey = _luma(red[i], green[i], blue[i])
        red[i] = grey
        green[i] = grey
        blue[i] = grey
