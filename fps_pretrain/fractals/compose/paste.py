"""Pasting of objects into a view, and the blur of a view."""

from __future__ import annotations

import math

import numpy as np

from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose.colours import packed
from fps_pretrain.fractals.compose.scratch import Scratch


@kernel()
def paste(
    grey_image: np.ndarray, side: int, top: int, left: int, orientation: int, scratch: Scratch, view: np.ndarray
) -> None:
    """Colour a grey image, resize it bilinearly and paste its non-black pixels.

    Weights are in units of 2^-13, so that a weight times a spread colour keeps each channel within its 21 bits.

    Args:
        grey_image: flat, ``s^2``, uint16, see ``render``.
        side: the object's side in the view, in pixels.
        top: row of its upper left corner; the object may extend beyond the view.
        left: column of its upper left corner.
        orientation: bit 0 transposes, bit 1 flips vertically, bit 2 flips horizontally.
        scratch: its ``table`` holds the object's colours.
        view: ``(size, size)``, uint32, packed colours, changed in place.
    """
    table, offsets, weights = scratch.table, scratch.offsets, scratch.weights
    source = int(math.sqrt(grey_image.size) + 0.5)
    size = view.shape[0]
    scale = np.float32(source) / np.float32(side)
    last = np.float32(source - 1)
    # A source pixel is at a row offset plus a column offset; transpose and flips are in these offsets.
    row_step, column_step = (1, source) if orientation & 1 else (source, 1)
    near_row, far_row, near_column, far_column = offsets[0], offsets[1], offsets[2], offsets[3]
    for i in range(side):
        s = min(max((np.float32(i) + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0.0)), last)
        near = int(s)
        far = min(near + 1, source - 1)
        weights[i] = np.int32((s - np.float32(near)) * np.float32(8192.0) + np.float32(0.5))
        near_row[i] = row_step * (source - 1 - near if orientation & 2 else near)
        far_row[i] = row_step * (source - 1 - far if orientation & 2 else far)
        near_column[i] = column_step * (source - 1 - near if orientation & 4 else near)
        far_column[i] = column_step * (source - 1 - far if orientation & 4 else far)
    rounding = np.uint64(4096 | (4096 << 21) | (4096 << 42))
    skip = max(0, -left)
    columns = max(0, min(side, size - left) - skip)
    nears, fars, column_weights = near_column[skip:], far_column[skip:], weights[skip:]
    for y in range(max(0, -top), min(side, size - top)):
        upper, lower = grey_image[near_row[y] :], grey_image[far_row[y] :]
        wy = np.int64(weights[y])
        out = view[top + y, left + skip :]
        for x in range(columns):
            near, far, wx = nears[x], fars[x], np.int64(column_weights[x])
            wd = (wy * wx + 4096) >> 13
            wc = wy - wd
            wb = wx - wd
            wa = 8192 - wx - wc
            colour = np.uint64(wa) * table[upper[near]] + np.uint64(wb) * table[upper[far]]
            colour += np.uint64(wc) * table[lower[near]] + np.uint64(wd) * table[lower[far]] + rounding
            packed_colour = packed(colour >> np.uint64(13))
            out[x] = packed_colour if packed_colour else out[x]


@kernel()
def blur3(view: np.ndarray, sigma: float, planes: np.ndarray) -> None:
    """Blur a view with a 3 x 3 Gaussian in place; borders are mirrored without repeating the edge.

    Both passes treat a whole channel as one flat array, which vectorises; the borders are then computed again.

    Args:
        view: ``(size, size)``, uint32, packed colours.
        sigma: of the Gaussian, in pixels.
        planes: scratch, ``(2, size^2)``, float32.
    """
    side = math.exp(-0.5 / (sigma * sigma))
    w0, w1 = np.float32(1.0 / (1.0 + 2.0 * side)), np.float32(side / (1.0 + 2.0 * side))
    half, two, byte = np.float32(0.5), np.float32(2.0), np.uint32(255)
    size = view.shape[0]
    pixels, channel, rows = view.reshape(-1), planes[0], planes[1]
    inside, middle = size * size - 2, size * (size - 2)
    before, here, after, out = channel[:inside], channel[1:], channel[2:], rows[1 : 1 + inside]
    upper, centre, lower = rows[:middle], rows[size:], rows[2 * size :]
    bottom, above_bottom = rows[middle + size :], rows[middle:]
    inner_pixels, bottom_pixels = pixels[size:], pixels[middle + size :]
    # NumPy's shifts keep 32 bits, Python's operators widen to 64; 32 bits vectorise better.
    for c in range(3):
        shift = np.uint32(8 * c)
        others = np.uint32(0xFFFFFF) ^ np.uint32(byte << shift)
        for i in range(pixels.size):
            channel[i] = np.float32(np.int32(np.right_shift(pixels[i], shift) & byte))
        for i in range(inside):
            out[i] = w0 * here[i] + w1 * (before[i] + after[i])
        for y in range(size):
            first, last = y * size, (y + 1) * size - 1
            rows[first] = w0 * channel[first] + w1 * (channel[first + 1] * two)
            rows[last] = w0 * channel[last] + w1 * (channel[last - 1] * two)
        for i in range(middle):
            blurred = np.uint32(np.int32(w0 * centre[i] + w1 * (upper[i] + lower[i]) + half))
            inner_pixels[i] = np.uint32((inner_pixels[i] & others) | np.left_shift(blurred, shift))
        for x in range(size):
            blurred = np.uint32(np.int32(w0 * rows[x] + w1 * (centre[x] * two) + half))
            pixels[x] = np.uint32((pixels[x] & others) | np.left_shift(blurred, shift))
            blurred = np.uint32(np.int32(w0 * bottom[x] + w1 * (above_bottom[x] * two) + half))
            bottom_pixels[x] = np.uint32((bottom_pixels[x] & others) | np.left_shift(blurred, shift))
