"""The chaos game for many points: one walk that forks into 32 branches, one in each lane."""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.chaos_game import (
    EXTENT_FACTOR,
    LANES,
    POINTS_BEFORE_FORK,
    Walks,
    draw_bits,
    is_visible,
    repeat_walk,
    set_walk,
)
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.rng import choice_bits, halves, subkey


@kernel(inline="always")
def _take_long_steps(n: int, steps: int, walks: Walks) -> None:
    """Take steps after the fork. All lanes hold the same ``n`` maps; ``n`` is a constant where this is inlined."""
    maps, bits, xs, ys = walks.maps, walks.bits, walks.x, walks.y
    threshold_1, threshold_2, threshold_3 = walks.thresholds[0], walks.thresholds[LANES], walks.thresholds[2 * LANES]
    a0, b0, e0 = maps[0], maps[LANES], maps[2 * LANES]
    c0, d0, f0 = maps[3 * LANES], maps[4 * LANES], maps[5 * LANES]
    a1, b1, e1 = maps[6 * LANES], maps[7 * LANES], maps[8 * LANES]
    c1, d1, f1 = maps[9 * LANES], maps[10 * LANES], maps[11 * LANES]
    a2, b2, e2 = maps[12 * LANES], maps[13 * LANES], maps[14 * LANES]
    c2, d2, f2 = maps[15 * LANES], maps[16 * LANES], maps[17 * LANES]
    a3, b3, e3 = maps[18 * LANES], maps[19 * LANES], maps[20 * LANES]
    c3, d3, f3 = maps[21 * LANES], maps[22 * LANES], maps[23 * LANES]
    for step in range(steps):
        draw_bits(step, walks)
        after = POINTS_BEFORE_FORK + step * LANES
        from_x, from_y = xs[after - LANES : after], ys[after - LANES : after]
        to_x, to_y = xs[after : after + LANES], ys[after : after + LANES]
        for j in range(LANES):
            r = np.int32(bits[j] & np.uint32(0xFFFF))
            second = r >= threshold_1
            a, b, e = a1 if second else a0, b1 if second else b0, e1 if second else e0
            c, d, f = c1 if second else c0, d1 if second else d0, f1 if second else f0
            if n > 2:
                third = r >= threshold_2
                a, b, e = a2 if third else a, b2 if third else b, e2 if third else e
                c, d, f = c2 if third else c, d2 if third else d, f2 if third else f
            if n > 3:
                fourth = r >= threshold_3
                a, b, e = a3 if fourth else a, b3 if fourth else b, e3 if fourth else e
                c, d, f = c3 if fourth else c, d3 if fourth else d, f3 if fourth else f
            x, y = from_x[j], from_y[j]
            to_x[j] = a * x + b * y + e
            to_y[j] = c * x + d * y + f


@kernel()
def take_long_walk(code: np.ndarray, n: int, points: int, key: np.uint64, walks: Walks) -> None:
    """One walk in all lanes: after 64 steps it forks, and 32 branches continue from its last 32 points.

    The points are distributed as those of a single chain if each branch is much longer than the mixing time of the
    walk. That holds for the 100,000 points of a 224 px image; with 1,000 points the image would be noisier.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        points: number of points, more than ``MAX_SINGLE_WALK``.
        key: the walk's random key; each branch has a key of its own.
        walks: output: its ``x`` and ``y`` start with the points.
    """
    set_walk(code, n, key, 0, walks)
    repeat_walk(1, walks)
    threshold_1, threshold_2, threshold_3 = walks.thresholds[0], walks.thresholds[LANES], walks.thresholds[2 * LANES]
    x, y = walks.x[0], walks.y[0]
    low, high = halves(key)
    for step in range(POINTS_BEFORE_FORK):
        r = np.int32(
            np.right_shift(choice_bits(low, high, np.uint32(step // 2)), np.uint32(16 * (step % 2))) & np.uint32(0xFFFF)
        )
        m = 6 * (int(r >= threshold_1) + int(r >= threshold_2) + int(r >= threshold_3))
        a, b, e = walks.maps[m * LANES], walks.maps[(m + 1) * LANES], walks.maps[(m + 2) * LANES]
        c, d, f = walks.maps[(m + 3) * LANES], walks.maps[(m + 4) * LANES], walks.maps[(m + 5) * LANES]
        x, y = a * x + b * y + e, c * x + d * y + f
        walks.x[step], walks.y[step] = x, y
    for lane in range(LANES):
        walks.low[lane], walks.high[lane] = halves(subkey(key, lane))
    # A constant number of maps lets the compiler leave out the selects for absent maps.
    steps = (points - POINTS_BEFORE_FORK + LANES - 1) // LANES
    if n == 2:
        _take_long_steps(2, steps, walks)
    elif n == 3:
        _take_long_steps(3, steps, walks)
    else:
        _take_long_steps(4, steps, walks)


@kernel()
def _minimum_and_maximum(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.float32, np.float32]:
    """The smallest and the greatest of ``values``, float32, by 32 columns so that the loop vectorises.

    Args:
        values: flat, float32.
        low: scratch, ``(32,)``, float32.
        high: scratch, ``(32,)``, float32.
    """
    low[:] = values[0]
    high[:] = values[0]
    for start in range(0, values.size, LANES):
        row = values[start : start + LANES]
        for j in range(row.size):
            v = row[j]
            low[j] = v if v < low[j] else low[j]
            high[j] = v if v > high[j] else high[j]
    least, greatest = low[0], high[0]
    for j in range(LANES):
        least = low[j] if low[j] < least else least
        greatest = high[j] if high[j] > greatest else greatest
    return least, greatest


@kernel()
def count_long_hits(points: int, side: int, walks: Walks, counts: np.ndarray) -> None:
    """``chaos_game.count_hits`` for one long walk: ``counts`` holds one grid."""
    stride = side + 2
    counts[: stride * stride] = 0
    xs, ys, cells = walks.x[:points], walks.y[:points], walks.cells
    low_x, high_x = _minimum_and_maximum(xs, walks.extent[:LANES], walks.extent[LANES : 2 * LANES])
    low_y, high_y = _minimum_and_maximum(ys, walks.extent[:LANES], walks.extent[LANES : 2 * LANES])
    if not is_visible(low_x, high_x, low_y, high_y):
        counts[(side // 2 + 1) * (stride + 1)] = points
        return
    cells_across = np.float32((side - 1) * EXTENT_FACTOR)
    scale_x, scale_y = cells_across / (high_x - low_x), cells_across / (high_y - low_y)
    row_step, first = np.float32(stride), np.float32(stride + 1)
    for start in range(0, points, cells.size):
        block_x, block_y = xs[start : start + cells.size], ys[start : start + cells.size]
        for i in range(block_x.size):
            row, column = np.floor((block_x[i] - low_x) * scale_x), np.floor((block_y[i] - low_y) * scale_y)
            cells[i] = np.uint32(np.int32(row * row_step + column + first))
        for i in range(block_x.size):
            counts[cells[i]] += np.int32(1)
