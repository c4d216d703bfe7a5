"""Diamond-square textures, the optional background of a view."""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose.colours import draw_colours, packed
from fps_pretrain.fractals.compose.scratch import Scratch
from fps_pretrain.fractals.compose.slots import SLOT_TEXTURE, SLOT_TEXTURE_COLOUR
from fps_pretrain.fractals.recipe_numbers import ImageNumbers
from fps_pretrain.fractals.rng import fill_bits, subkey


@kernel()
def diamond_square(size: int, key: np.uint64, bits: np.ndarray, texture: np.ndarray) -> None:
    """Draw a diamond-square texture (Fournier, Fussell and Carpenter, CACM 1982).

    Args:
        size: side of the texture in pixels.
        key: the texture's key.
        bits: scratch, at least as long as ``texture``, uint32.
        texture: output, ``(side, side)``, float32; side - 1 is the smallest power of two of at least ``size`` - 1. The
            first ``size`` rows and columns are the texture, in [0, 1].
    """
    side = texture.shape[0]
    extent = side - 1
    fill_bits(key, bits[: side * side])
    for y in range(side):
        for x in range(side):
            texture[y, x] = np.float32(bits[y * side + x] >> np.uint32(8)) * np.float32(2.0**-23) - np.float32(1.0)
    step, amplitude = extent, np.float32(1.0)
    while step > 1:
        half = step // 2
        for y in range(half, extent, step):
            for x in range(half, extent, step):
                corners = (texture[y - half, x - half] + texture[y - half, x + half]) + (
                    texture[y + half, x - half] + texture[y + half, x + half]
                )
                texture[y, x] = corners * np.float32(0.25) + amplitude * texture[y, x]
        for y in range(0, side, half):
            for x in range(half if (y // half) % 2 == 0 else 0, side, step):
                total, count = np.float32(0.0), np.float32(0.0)
                if y >= half:
                    total += texture[y - half, x]
                    count += np.float32(1.0)
                if y + half <= extent:
                    total += texture[y + half, x]
                    count += np.float32(1.0)
                if x >= half:
                    total += texture[y, x - half]
                    count += np.float32(1.0)
                if x + half <= extent:
                    total += texture[y, x + half]
                    count += np.float32(1.0)
                texture[y, x] = total / count + amplitude * texture[y, x]
        step = half
        amplitude *= np.float32(0.5)
    low = high = texture[0, 0]
    for y in range(size):
        for x in range(size):
            low, high = min(low, texture[y, x]), max(high, texture[y, x])
    span = max(high - low, np.float32(1e-6))
    for y in range(size):
        for x in range(size):
            texture[y, x] = (texture[y, x] - low) / span


@kernel()
def paint_texture(numbers: ImageNumbers, key: np.uint64, scratch: Scratch, view: np.ndarray) -> None:
    """Fill a view ``(size, size)``, uint32, with a coloured texture; ``key`` is the view's."""
    size = view.shape[0]
    diamond_square(size, subkey(key, SLOT_TEXTURE), scratch.bits, scratch.texture)
    draw_colours(numbers, key, SLOT_TEXTURE_COLOUR, key, SLOT_TEXTURE_COLOUR, scratch.table)
    for y in range(size):
        for x in range(size):
            grey = int(np.float32(255.0) * scratch.texture[y, x])
            view[y, x] = packed(scratch.table[1 + grey])
