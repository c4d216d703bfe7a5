"""Grey images of codes, and their colours."""

from __future__ import annotations

import numpy as np
from numba import njit

from fps_pretrain.fractals.codes import chaos_game, hit_counts, jitter_code
from fps_pretrain.fractals.rng import integer, uniform_in


@njit(cache=True, nogil=True)
def stamp(counts: np.ndarray, patch: int, image: np.ndarray) -> None:
    """Stamp a 3x3 binary patch on every hit: ``image = counts`` correlated with the patch, divided by its maximum.

    Args:
        counts: hits per cell ``(side, side)``, int32.
        patch: the patch's 9 cells as bits 0 to 8, row by row.
        image: grey output ``(side, side)``, float32 in [0, 1].
    """
    side = counts.shape[0]
    image[:] = 0.0
    for cell in range(9):
        if not (patch >> cell) & 1:
            continue
        dy, dx = cell // 3 - 1, cell % 3 - 1
        for y in range(max(0, dy), min(side, side + dy)):
            for x in range(max(0, dx), min(side, side + dx)):
                image[y, x] += counts[y - dy, x - dx]
    peak = image.max()
    if peak > 0.0:
        image /= peak


@njit(cache=True, nogil=True)
def render(code: np.ndarray, jitter: int, points: int, counts: np.ndarray, image: np.ndarray, state: np.ndarray) -> int:
    """Render a jittered code as a grey image.

    Args:
        code: ``(n, 2, 3)``, not degenerate (``codes.class_code`` gives such).
        jitter: an index into ``recipe.JITTERS``.
        points: steps of the chaos game.
        counts: scratch ``(side, side)``, int32.
        image: output ``(side, side)``, float32 in [0, 1], never blank for a code of ``codes.class_code``.
        state: the random stream.

    Returns:
        How many cells the walk hit.
    """
    side = counts.shape[0]
    hit = hit_counts(chaos_game(jitter_code(code, jitter, state), points, state), side, counts)
    if hit < side // 2:  # the jitter collapsed the attractor: show the class as it is
        hit = hit_counts(chaos_game(code, points, state), side, counts)
    # A patch with all nine cells off would render nothing.
    stamp(counts, 1 + integer(state, 511), image)
    return hit


@njit(cache=True, nogil=True)
def hsv_to_rgb(hue: int, saturation: float, value: float) -> tuple[int, int, int]:
    """OpenCV's 8-bit convention: hue in units of 2 degrees (wrapping past 180), the rest in [0, 1], to 8-bit RGB."""
    h = (hue % 180) / 30.0
    sector = int(h)
    fraction = h - sector
    p = value * (1.0 - saturation)
    q = value * (1.0 - saturation * fraction)
    t = value * (1.0 - saturation * (1.0 - fraction))
    if sector == 0:
        r, g, b = value, t, p
    elif sector == 1:
        r, g, b = q, value, p
    elif sector == 2:
        r, g, b = p, value, t
    elif sector == 3:
        r, g, b = p, q, value
    elif sector == 4:
        r, g, b = t, p, value
    else:
        r, g, b = value, p, q
    return int(r * 255.0 + 0.5), int(g * 255.0 + 0.5), int(b * 255.0 + 0.5)


@njit(cache=True, nogil=True)
def colour_table(shift: float, state: np.ndarray, table: np.ndarray) -> None:
    """Fill ``table (256, 3)`` with the RGB colour of each grey level: shifted hues, one saturation, one value.

    Args:
        shift: the hue of grey level 0, in [0, 255).
        state: gives the saturation, U(0.3, 1), and the value, U(0.5, 1).
        table: output, float32 in 0 .. 255.
    """
    saturation = int(uniform_in(state, 0.3, 1.0) * 255.0) / 255.0
    value = int(uniform_in(state, 0.5, 1.0) * 255.0) / 255.0
    for level in range(256):
        r, g, b = hsv_to_rgb(int(level + shift) % 256, saturation, value)
        table[level, 0] = r
        table[level, 1] = g
        table[level, 2] = b


@njit(cache=True, nogil=True)
def diamond_square(size: int, state: np.ndarray) -> np.ndarray:
    """A random plasma texture ``(size, size)``, float32 in [0, 1] (Fournier, Fussell and Carpenter, CACM 1982)."""
    extent = 1
    while extent + 1 < size:
        extent *= 2
    grid = np.zeros((extent + 1, extent + 1), np.float32)
    for corner in range(4):
        grid[(corner // 2) * extent, (corner % 2) * extent] = uniform_in(state, -1.0, 1.0)
    step, amplitude = extent, 1.0
    while step > 1:
        half = step // 2
        for y in range(half, extent, step):
            for x in range(half, extent, step):
                corners = (
                    grid[y - half, x - half]
                    + grid[y - half, x + half]
                    + grid[y + half, x - half]
                    + grid[y + half, x + half]
                )
                grid[y, x] = corners / 4.0 + amplitude * uniform_in(state, -1.0, 1.0)
        for y in range(0, extent + 1, half):
            for x in range(half if (y // half) % 2 == 0 else 0, extent + 1, step):
                total, count = 0.0, 0
                if y >= half:
                    total += grid[y - half, x]
                    count += 1
                if y + half <= extent:
                    total += grid[y + half, x]
                    count += 1
                if x >= half:
                    total += grid[y, x - half]
                    count += 1
                if x + half <= extent:
                    total += grid[y, x + half]
                    count += 1
                grid[y, x] = total / count + amplitude * uniform_in(state, -1.0, 1.0)
        step = half
        amplitude *= 0.5
    texture = grid[:size, :size].copy()
    low, high = texture.min(), texture.max()
    return (texture - low) / max(high - low, np.float32(1e-6))
