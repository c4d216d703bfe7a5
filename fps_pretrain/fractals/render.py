"""Grey images of codes, their colours, and textures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.codes import JITTER_SLOTS, JITTER_TRIES, PROBE_GRID, PROBE_POINTS, jitter_code
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe import MAX_MAPS, ImageNumbers, Recipe
from fps_pretrain.fractals.rng import chance, fill_choices, integer, subkey
from fps_pretrain.fractals.walk import Walk, empty_walk, hit_counts, take_walk

# Slots of an image's key, after those of the jitter
SLOT_WALK = JITTER_TRIES * JITTER_SLOTS
SLOT_PATCH = SLOT_WALK + 1


class ImageScratch(NamedTuple):
    """What one thread needs to render images.

    Attributes:
        varied: ``(4, 2, 3)``, the jittered code.
        walk: its points.
        counts: hits, flat, with a border of one cell, int32.
        sums: stamped hits, likewise.
        peaks: ``(side,)``, int32.
    """

    varied: np.ndarray
    walk: Walk
    counts: np.ndarray
    sums: np.ndarray
    peaks: np.ndarray


@compiled()
def empty_image_scratch(points: int, side: int) -> ImageScratch:
    """Scratch for images of ``side`` pixels and walks of ``points`` points, and for looking at codes."""
    cells = max(PROBE_GRID, (side + 2) ** 2)
    return ImageScratch(
        np.empty((MAX_MAPS, 2, 3)),
        empty_walk(max(PROBE_POINTS, points)),
        np.empty(cells, np.int32),
        np.empty(cells, np.int32),
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
def render(
    code: np.ndarray,
    n: int,
    recipe: Recipe,
    key: np.uint64,
    scratch: ImageScratch,
    levels: np.ndarray,
) -> None:
    """Render a jittered code as a grey image.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        recipe: what images look like.
        key: the image's key.
        scratch: from ``empty_image_scratch``.
        levels: output, flat, ``side^2``, uint16, as ``stamp`` writes it; never blank.

    """
    points, side = recipe.points, recipe.render_side
    jitter_code(code, n, recipe.jitter, recipe.image, key, scratch.varied)
    take_walk(scratch.varied, n, points, subkey(key, SLOT_WALK), scratch.walk)
    if not hit_counts(scratch.walk, points, side, scratch.counts):  # no extent: all points in one cell
        scratch.counts[(side // 2 + 1) * (side + 3)] = points
    stamp(scratch.counts, side, draw_patch(recipe.image, key), scratch.sums, scratch.peaks, levels)


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
    fill_choices(key, bits[: side * side])
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
