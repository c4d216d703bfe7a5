"""Grey images of codes, their colours, and textures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.chaos_game import (
    LANES,
    LONGEST_CHAIN,
    Walks,
    count_hits,
    count_long_hits,
    empty_walks,
    repeat_walk,
    set_walk,
    take_long_walk,
    take_steps,
)
from fps_pretrain.fractals.codes import JITTER_SLOTS, JITTER_TRIES, PROBE_GRID, PROBE_POINTS
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe import MAX_MAPS, ImageNumbers, Recipe
from fps_pretrain.fractals.rng import chance, fill_bits, integer, subkey

# Slots of an image's key, after those of the jitter
SLOT_WALK = JITTER_TRIES * JITTER_SLOTS
SLOT_PATCH = SLOT_WALK + 1


class Images(NamedTuple):
    """Images to render together, and what one thread needs for it.

    Attributes:
        keys: ``(images,)``, uint64.
        codes: ``(images, 4, 2, 3)``, jittered.
        sizes: ``(images,)``, int64, their numbers of maps.
        levels: ``(images, side^2)``, uint16, output, as ``stamp`` writes them.
        walks: points.
        counts: hits, flat, of 32 images, int32.
        sums: stamped hits of one image, likewise.
        peaks: ``(side,)``, int32.
    """

    keys: np.ndarray
    codes: np.ndarray
    sizes: np.ndarray
    levels: np.ndarray
    walks: Walks
    counts: np.ndarray
    sums: np.ndarray
    peaks: np.ndarray


@compiled()
def empty_images(recipe: Recipe, images: int) -> Images:
    """Room for so many images of a recipe, and for looking at codes."""
    side, grid = recipe.render_side, (recipe.render_side + 2) ** 2
    grids = LANES if recipe.points <= LONGEST_CHAIN else 1
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


def _hue_weights() -> np.ndarray:
    """``(3, 512)``: how much saturation takes from each channel, by hue in OpenCV's 8-bit units of 2 degrees, twice."""
    sector = (np.arange(512) % 256 % 180) / 30.0
    distance = np.stack([(sector + offset) % 6.0 for offset in (5.0, 3.0, 1.0)])
    return np.clip(np.minimum(distance, 4.0 - distance), 0.0, 1.0).astype(np.float32)


HUE_WEIGHTS = _hue_weights()


@kernel()
def stamp(counts: np.ndarray, side: int, patch: int, sums: np.ndarray, peaks: np.ndarray, levels: np.ndarray) -> None:
    """Stamp a 3x3 binary patch on every hit and scale the sums to grey levels.

    Args:
        counts: hits with a border of empty cells, flat, ``(side + 2)^2``, int32.
        side: side of the image.
        patch: the patch's 9 cells as bits 0 to 8, row by row.
        sums: scratch like ``counts``.
        peaks: scratch, ``(side,)``, int32.
        levels: output, flat, ``side^2``, uint16: 0 where nothing was stamped, else 1 + floor(255 x sum / greatest sum).
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
        out = levels[y * side : (y + 1) * side]
        for x in range(side):
            level = np.int32(np.float32(row[x]) * np.float32(255.0) / peak)
            out[x] = level + np.int32(1) if row[x] > 0 else np.int32(0)


@kernel()
def draw_patch(numbers: ImageNumbers, key: np.uint64) -> int:
    """The 3x3 patch of an image, its cells as bits; a patch with all nine off would render nothing: one is on then."""
    patch = 0
    for cell in range(9):
        if chance(key, SLOT_PATCH + cell, numbers.cell_probability):
            patch |= 1 << cell
    return patch if patch else 1 << integer(key, SLOT_PATCH + 9, 9)


@kernel()
def render(recipe: Recipe, count: int, images: Images) -> None:
    """Render the first ``count`` of ``images``: grey levels by their codes and keys, none of them blank."""
    points, side = recipe.points, recipe.render_side
    grid = (side + 2) * (side + 2)
    if points > LONGEST_CHAIN:
        for k in range(count):
            take_long_walk(images.codes[k], images.sizes[k], points, subkey(images.keys[k], SLOT_WALK), images.walks)
            count_long_hits(points, side, images.walks, images.counts)
            patch = draw_patch(recipe.image, images.keys[k])
            stamp(images.counts, side, patch, images.sums, images.peaks, images.levels[k])
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
            stamp(images.counts[lane * grid :], side, patch, images.sums, images.peaks, images.levels[k])


@kernel()
def colour_table(shift: float, saturation: float, value: float, table: np.ndarray) -> None:
    """Fill ``table (257,)`` with the colour of each grey level as ``stamp`` counts them.

    OpenCV's 8-bit convention: hues in units of 2 degrees that wrap past 180, saturation and value in steps of 1 / 255.

    Args:
        shift: the hue of grey 0, in [0, 255).
        saturation: in [0, 1].
        value: in [0, 1].
        table: output, uint64: red, green and blue, 0 .. 255, in bits 0, 21 and 42; element 0, for nothing, is black.
    """
    s = np.float32(int(saturation * 255.0) / 255.0)
    v = np.float32(int(value * 255.0))
    half = np.float32(0.5)
    start = int(shift)
    red_weights, green_weights, blue_weights = HUE_WEIGHTS[0, start:], HUE_WEIGHTS[1, start:], HUE_WEIGHTS[2, start:]
    table[0] = np.uint64(0)
    colours = table[1:]
    for level in range(256):
        red = np.int32(v - v * s * red_weights[level] + half)
        green = np.int32(v - v * s * green_weights[level] + half)
        blue = np.int32(v - v * s * blue_weights[level] + half)
        colours[level] = np.uint64(red) | (np.uint64(green) << np.uint64(21)) | (np.uint64(blue) << np.uint64(42))


@kernel()
def diamond_square(size: int, key: np.uint64, bits: np.ndarray, texture: np.ndarray) -> None:
    """A random plasma texture (Fournier, Fussell and Carpenter, CACM 1982).

    Args:
        size: its side in pixels.
        key: its random key.
        bits: scratch, at least as long as ``texture``, uint32.
        texture: output, ``(side, side)``, float32, where side is the first power of two from ``size`` - 1, plus 1; its
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
