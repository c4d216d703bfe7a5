"""Random resized crops with a random flip."""

from __future__ import annotations

import math

import numpy as np

from fps_pretrain.fractals.augment.scratch import ViewScratch
from fps_pretrain.fractals.augment.slots import CROP_TRIES, SLOT_CROP, SLOT_FLIP, SLOT_LEFT, SLOT_TOP
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose.colours import spread
from fps_pretrain.fractals.recipe_numbers import ViewNumbers
from fps_pretrain.fractals.rng import chance, integer, uniform_in

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@kernel()
def crop_box(height: int, width: int, numbers: ViewNumbers, key: np.uint64) -> tuple[int, int, int, int]:
    """Draw a crop as torchvision's RandomResizedCrop does; if no attempt fits, the largest square in the middle.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        numbers: the recipe's.
        key: the view's augmentation key.

    Returns:
        Top, left, height and width, in pixels.
    """
    log_ratio = math.log(numbers.crop_ratio)
    for attempt in range(CROP_TRIES):
        area = height * width * uniform_in(key, SLOT_CROP + 2 * attempt, numbers.crop_low, numbers.crop_high)
        ratio = math.exp(uniform_in(key, SLOT_CROP + 2 * attempt + 1, -log_ratio, log_ratio))
        w = int(math.sqrt(area * ratio) + 0.5)
        h = int(math.sqrt(area / ratio) + 0.5)
        if 0 < w <= width and 0 < h <= height:
            return integer(key, SLOT_TOP, height - h + 1), integer(key, SLOT_LEFT, width - w + 1), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


@kernel(inline="always")
def _source_position(index: int, scale: np.float32, length: int) -> np.float32:
    """The source coordinate of output pixel ``index``, within a source of ``length`` pixels (bilinear resizing)."""
    s = (np.float32(index) + np.float32(0.5)) * scale - np.float32(0.5)
    s = s if s > _ZERO else _ZERO
    last = np.float32(length - 1)
    return s if s < last else last


@kernel()
def _resize_line(source: np.ndarray, left: int, width: int, scratch: ViewScratch, slot: int) -> None:
    """Resize the part of a line that is inside a crop.

    Args:
        source: a line of packed colours, uint32.
        left: first column of the crop.
        width: width of the crop.
        scratch: output: lines ``slot`` to ``slot`` + 2, red, green and blue in [0, 1].
        slot: 0 or 3.
    """
    near, far, weight, spread_line = scratch.near, scratch.far, scratch.weight, scratch.spread
    part = source[left:]
    for x in range(width):
        spread_line[x] = spread(part[x])
    red, green, blue = scratch.lines[slot], scratch.lines[slot + 1], scratch.lines[slot + 2]
    mask, scale = np.uint64(2**21 - 1), np.float32(1.0 / (255.0 * 8192.0))
    for x in range(near.size):
        w = weight[x]
        sums = (np.uint64(8192) - w) * spread_line[near[x]] + w * spread_line[far[x]]
        red[x] = np.float32(np.int32(sums & mask)) * scale
        green[x] = np.float32(np.int32((sums >> np.uint64(21)) & mask)) * scale
        blue[x] = np.float32(np.int32(sums >> np.uint64(42))) * scale


@kernel()
def resized_crop(
    image: np.ndarray, numbers: ViewNumbers, key: np.uint64, scratch: ViewScratch, out: np.ndarray
) -> None:
    """Crop an image at random, flip it with some probability, and resize it bilinearly.

    Args:
        image: ``(H, W)``, uint32, packed colours.
        numbers: the recipe's.
        key: the view's augmentation key.
        scratch: from ``empty_view_scratch``.
        out: output ``(3, size, size)``, float32, in [0, 1].
    """
    top, left, height, width = crop_box(image.shape[0], image.shape[1], numbers, key)
    flip = chance(key, SLOT_FLIP, numbers.mirror_probability)
    size = out.shape[1]
    scale_y, scale_x = np.float32(height) / np.float32(size), np.float32(width) / np.float32(size)
    for x in range(size):
        s = _source_position(x, scale_x, width)
        column = int(s)
        at = size - 1 - x if flip else x
        scratch.near[at] = column
        scratch.far[at] = min(column + 1, width - 1)
        scratch.weight[at] = np.uint64(np.int64((s - np.float32(column)) * np.float32(8192.0) + np.float32(0.5)))
    done = -1
    for y in range(size):
        s = _source_position(y, scale_y, height)
        line = int(s)
        below = min(line + 1, height - 1)
        wy = s - np.float32(line)
        # Even source lines are kept in the first half of the scratch, odd ones in the second.
        for needed in (line, below):
            if needed > done:
                _resize_line(image[top + needed], left, width, scratch, 3 * (needed & 1))
                done = needed
        for c in range(3):
            upper, lower, target = scratch.lines[3 * (line & 1) + c], scratch.lines[3 * (below & 1) + c], out[c, y]
            for x in range(size):
                target[x] = upper[x] + wy * (lower[x] - upper[x])
