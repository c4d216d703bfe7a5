"""Rendering: grey images of codes.

A grey image is a flat array of uint16: 0 where there is nothing, else 1 + grey with grey in 0 .. 255.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.chaos_game import (
    LANES,
    MAX_SINGLE_WALK,
    Walks,
    count_hits,
    empty_walks,
    repeat_walk,
    set_walk,
    take_steps,
)
from fps_pretrain.fractals.codes import PROBE_GRID, PROBE_POINTS
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.jitter import JITTER_SLOTS, JITTER_TRIES
from fps_pretrain.fractals.long_walk import count_long_hits, take_long_walk
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS, ImageNumbers
from fps_pretrain.fractals.rng import chance, integer, subkey

# Slots of an image's key; those before belong to the jitter.
SLOT_WALK = JITTER_TRIES * JITTER_SLOTS
SLOT_PATCH = SLOT_WALK + 1


class Images(NamedTuple):
    """Images to render together, and the scratch memory for it.

    Attributes:
        keys: ``(images,)``, uint64.
        codes: ``(images, 4, 2, 3)``, with jitter.
        sizes: ``(images,)``, int64, their numbers of maps.
        grey_images: ``(images, side^2)``, uint16, output.
        walks: scratch for the chaos game.
        counts: scratch, flat, int32, the hits of 32 images.
        sums: scratch, flat, int32, the stamped hits of one image.
        peaks: scratch, ``(side,)``, int32.
    """

    keys: np.ndarray
    codes: np.ndarray
    sizes: np.ndarray
    grey_images: np.ndarray
    walks: Walks
    counts: np.ndarray
    sums: np.ndarray
    peaks: np.ndarray


@compiled()
def empty_images(recipe: Recipe, images: int) -> Images:
    """Memory for so many images of a recipe; it also serves ``codes.class_codes``."""
    side, grid = recipe.render_side, (recipe.render_side + 2) ** 2
    grids = LANES if recipe.points <= MAX_SINGLE_WALK else 1
    return Images(
        np.empty(images, np.uint64),
        np.empty((images, MAX_MAPS, 2, 3)),
        np.empty(images, np.int64),
        np.empty((images, side * side), np.uint16),
        empty_walks(max(PROBE_POINTS, recipe.points)),
        np.empty(max(LANES * PROBE_GRID, grids * grid), np.int32),
        np.empty(grid, np.int32),
        np.empty(side, np.int32),
    )


@kernel()
def stamp(
    counts: np.ndarray, side: int, patch: int, sums: np.ndarray, peaks: np.ndarray, grey_image: np.ndarray
) -> None:
    """Stamp a 3 x 3 binary patch on every hit and scale the sums to grey.

    Args:
        counts: hits, flat, ``(side + 2)^2``, int32, with a border of empty cells.
        side: side of the image.
        patch: the patch's 9 cells as bits 0 to 8, row by row.
        sums: scratch like ``counts``.
        peaks: scratch, ``(side,)``, int32.
        grey_image: output, flat, ``side^2``, uint16: 0 where nothing was stamped, else 1 + floor(255 x sum / greatest
            sum).
    """
    stride = side + 2
    first, length = stride + 1, side * stride - 2
    inside = sums[first : first + length]
    inside[:] = 0
    for cell in range(9):
        if (patch >> cell) & 1:
            shift = (cell // 3 - 1) * stride + cell % 3 - 1
            shifted = counts[first - shift : first - shift + length]
            for i in range(length):
                inside[i] += shifted[i]
    peaks[:] = 0
    for y in range(side):
        row = sums[(y + 1) * stride + 1 : (y + 1) * stride + 1 + side]
        for x in range(side):
            peaks[x] = row[x] if row[x] > peaks[x] else peaks[x]
    top = peaks[0]
    for x in range(side):
        top = max(top, peaks[x])
    peak = np.float32(top)
    for y in range(side):
        row = sums[(y + 1) * stride + 1 : (y + 1) * stride + 1 + side]
        out = grey_image[y * side : (y + 1) * side]
        for x in range(side):
            grey = np.int32(np.float32(row[x]) * np.float32(255.0) / peak)
            out[x] = grey + np.int32(1) if row[x] > 0 else np.int32(0)


@kernel()
def draw_patch(numbers: ImageNumbers, key: np.uint64) -> int:
    """Draw the 3 x 3 patch of an image, its cells as bits. If all nine are off, one random cell is turned on."""
    patch = 0
    for cell in range(9):
        if chance(key, SLOT_PATCH + cell, numbers.cell_probability):
            patch |= 1 << cell
    return patch if patch else 1 << integer(key, SLOT_PATCH + 9, 9)


@kernel()
def render(recipe: Recipe, count: int, images: Images) -> None:
    """Render the first ``count`` of ``images`` from their codes and keys. No image is blank."""
    points, side = recipe.points, recipe.render_side
    grid = (side + 2) * (side + 2)
    if points > MAX_SINGLE_WALK:
        for k in range(count):
            take_long_walk(images.codes[k], images.sizes[k], points, subkey(images.keys[k], SLOT_WALK), images.walks)
            count_long_hits(points, side, images.walks, images.counts)
            patch = draw_patch(recipe.image, images.keys[k])
            stamp(images.counts, side, patch, images.sums, images.peaks, images.grey_images[k])
        return
    for start in range(0, count, LANES):
        lanes = min(LANES, count - start)
        for lane in range(lanes):
            k = start + lane
            set_walk(images.codes[k], images.sizes[k], subkey(images.keys[k], SLOT_WALK), lane, images.walks)
        repeat_walk(lanes, images.walks)
        take_steps(points, 0, images.walks)
        count_hits(points, side, images.walks, images.counts)
        for lane in range(lanes):
            k = start + lane
            patch = draw_patch(recipe.image, images.keys[k])
            stamp(images.counts[lane * grid :], side, patch, images.sums, images.peaks, images.grey_images[k])
