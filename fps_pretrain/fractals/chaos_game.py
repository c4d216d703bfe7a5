"""The chaos game: the points of an attractor, and how many of them fall into each cell of a grid.

Each step of a walk depends on the one before, so a single walk keeps a processor waiting. 32 walks therefore run side
by side, one in each lane of the vector registers. ``long_walk`` handles walks of many points, which use all lanes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.rng import CHOICE_RANGE, choice_bits, halves

LANES = 32
"""Walks that run side by side."""
MAX_SINGLE_WALK = 16_384
"""Most points of a walk that stays in one lane; a longer one forks into 32 (``long_walk``)."""
POINTS_BEFORE_FORK = 2 * LANES
"""Points that a long walk makes before it forks."""
MAX_COORDINATE = 1e6
"""A walk with a coordinate beyond this has diverged and is not shown."""
EXTENT_FACTOR = 1.0 + 2.0**-21
"""The scale from points to cells is multiplied by this. It exceeds 1 a little, so that the outermost point is in the
last cell despite rounding."""


class Walks(NamedTuple):
    """Scratch memory for 32 walks. Value ``i`` of lane ``j`` is at ``i x 32 + j`` of a flat array.

    Attributes:
        maps: ``(24 x 32,)``, float32: the six numbers of each of four maps.
        thresholds: ``(3 x 32,)``, int32: a random choice below the first chooses map 0, and so on.
        low: ``(32,)``, uint32: the lower halves of the walks' random keys.
        high: ``(32,)``, uint32: the upper halves.
        bits: ``(32,)``, uint32: the random bits of two steps.
        x: ``((1 + steps) x 32,)``, float32: the start points, then the points after each step.
        y: as ``x``.
        extent: ``(4 x 32,)``, float32: smallest x, greatest x, smallest y, greatest y.
        scale: ``(2 x 32,)``, float32: from points to cells.
        visible: ``(32,)``, bool: whether the points are finite and have an extent.
        cells: ``(1024,)``, uint32: the cells of a block of points.
    """

    maps: np.ndarray
    thresholds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bits: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray
    scale: np.ndarray
    visible: np.ndarray
    cells: np.ndarray


@compiled()
def empty_walks(points: int) -> Walks:
    """Scratch memory for 32 walks of ``points`` points each, or for one long walk."""
    room = points * LANES + LANES if points <= MAX_SINGLE_WALK else points + POINTS_BEFORE_FORK + 2 * LANES
    return Walks(
        np.empty(24 * LANES, np.float32),
        np.empty(3 * LANES, np.int32),
        np.empty(LANES, np.uint32),
        np.empty(LANES, np.uint32),
        np.empty(LANES, np.uint32),
        np.empty(room, np.float32),
        np.empty(room, np.float32),
        np.empty(4 * LANES, np.float32),
        np.empty(2 * LANES, np.float32),
        np.empty(LANES, np.bool_),
        np.empty(1024, np.uint32),
    )


@kernel()
def set_walk(code: np.ndarray, n: int, key: np.uint64, lane: int, walks: Walks) -> None:
    """Prepare the walk of a code in one lane.

    Map k is chosen with probability proportional to ``|det A_k|``. The walk starts at the fixed point of map 0, which
    lies on the attractor.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        key: the walk's random key.
        lane: 0 .. 31.
        walks: changed.
    """
    total = 0.0
    for k in range(n):
        total += abs(code[k, 0, 0] * code[k, 1, 1] - code[k, 0, 1] * code[k, 1, 0])
    reached = 0.0
    for k in range(4):
        used = min(k, n - 1)  # fill up with the last map; it is never chosen twice
        for i in range(6):
            walks.maps[(6 * k + i) * LANES + lane] = code[used, i // 3, i % 3]
        if k < n - 1:
            # If all areas are 0, all maps are equally likely.
            area = abs(code[k, 0, 0] * code[k, 1, 1] - code[k, 0, 1] * code[k, 1, 0])
            reached += area / total if total > 0.0 else 1.0 / n
        if k < 3:
            walks.thresholds[k * LANES + lane] = int(reached * CHOICE_RANGE + 0.5) if k < n - 1 else CHOICE_RANGE
    walks.low[lane], walks.high[lane] = halves(key)

    a, b, c, d = code[0, 0, 0], code[0, 0, 1], code[0, 1, 0], code[0, 1, 1]
    e, f = code[0, 0, 2], code[0, 1, 2]
    det = (1.0 - a) * (1.0 - d) - b * c
    x, y = 0.0, 0.0
    if abs(det) > 1e-9:
        x = ((1.0 - d) * e + b * f) / det
        y = (c * e + (1.0 - a) * f) / det
    walks.x[lane] = x
    walks.y[lane] = y


@kernel()
def repeat_walk(first: int, walks: Walks) -> None:
    """Copy the walk of lane 0 into the lanes from ``first`` on, so that every lane holds finite numbers."""
    for lane in range(first, LANES):
        for k in range(24):
            walks.maps[k * LANES + lane] = walks.maps[k * LANES]
        for k in range(3):
            walks.thresholds[k * LANES + lane] = walks.thresholds[k * LANES]
        walks.low[lane], walks.high[lane] = walks.low[0], walks.high[0]
        walks.x[lane], walks.y[lane] = walks.x[0], walks.y[0]


@kernel(inline="always")
def draw_bits(step: int, walks: Walks) -> None:
    """Draw 16 random bits for every lane: an even step draws 32 and uses the lower half, an odd step the upper half."""
    bits, low, high = walks.bits, walks.low, walks.high
    if step % 2 == 0:
        for j in range(LANES):
            bits[j] = choice_bits(low[j], high[j], np.uint32(step // 2))
    else:
        for j in range(LANES):
            bits[j] = np.right_shift(bits[j], np.uint32(16))


@kernel()
def take_steps(steps: int, start: int, walks: Walks) -> None:
    """Take ``steps`` steps in all lanes, from the 32 points at ``start``.

    The maps are chosen by selects, since the compiler does not vectorise a table lookup.
    """
    maps, thresholds, bits, xs, ys = walks.maps, walks.thresholds, walks.bits, walks.x, walks.y
    for step in range(steps):
        draw_bits(step, walks)
        before = start + step * LANES
        from_x, from_y = xs[before : before + LANES], ys[before : before + LANES]
        to_x, to_y = xs[before + LANES : before + 2 * LANES], ys[before + LANES : before + 2 * LANES]
        for j in range(LANES):
            r = np.int32(bits[j] & np.uint32(0xFFFF))
            second, third, fourth = r >= thresholds[j], r >= thresholds[LANES + j], r >= thresholds[2 * LANES + j]
            a0, b0, e0 = maps[j], maps[LANES + j], maps[2 * LANES + j]
            c0, d0, f0 = maps[3 * LANES + j], maps[4 * LANES + j], maps[5 * LANES + j]
            a1, b1, e1 = maps[6 * LANES + j], maps[7 * LANES + j], maps[8 * LANES + j]
            c1, d1, f1 = maps[9 * LANES + j], maps[10 * LANES + j], maps[11 * LANES + j]
            a2, b2, e2 = maps[12 * LANES + j], maps[13 * LANES + j], maps[14 * LANES + j]
            c2, d2, f2 = maps[15 * LANES + j], maps[16 * LANES + j], maps[17 * LANES + j]
            a3, b3, e3 = maps[18 * LANES + j], maps[19 * LANES + j], maps[20 * LANES + j]
            c3, d3, f3 = maps[21 * LANES + j], maps[22 * LANES + j], maps[23 * LANES + j]
            a = a3 if fourth else (a2 if third else (a1 if second else a0))
            b = b3 if fourth else (b2 if third else (b1 if second else b0))
            e = e3 if fourth else (e2 if third else (e1 if second else e0))
            c = c3 if fourth else (c2 if third else (c1 if second else c0))
            d = d3 if fourth else (d2 if third else (d1 if second else d0))
            f = f3 if fourth else (f2 if third else (f1 if second else f0))
            x, y = from_x[j], from_y[j]
            to_x[j] = a * x + b * y + e
            to_y[j] = c * x + d * y + f


@kernel(inline="always")
def is_visible(low_x: np.float32, high_x: np.float32, low_y: np.float32, high_y: np.float32) -> bool:
    """Whether the bounding box of some points is finite and has an extent."""
    finite = low_x > -MAX_COORDINATE and high_x < MAX_COORDINATE and low_y > -MAX_COORDINATE and high_y < MAX_COORDINATE
    return bool(finite and high_x - low_x >= 1e-6 and high_y - low_y >= 1e-6)


@kernel()
def count_hits(steps: int, side: int, walks: Walks, counts: np.ndarray) -> None:
    """Count, for each lane, the points that fall into each cell of a grid.

    The bounding box of the points fills the grid, x to rows and y to columns. Points that are not finite, exceed 1e6
    or have no extent are all counted in the cell in the middle.

    Args:
        steps: points of each walk.
        side: a grid has ``side x side`` cells.
        walks: the points.
        counts: output, flat, int32: 32 grids of ``(side + 2)^2`` cells, the outermost of which stay empty.
    """
    xs, ys, extent, scale, visible, cells = walks.x, walks.y, walks.extent, walks.scale, walks.visible, walks.cells
    for j in range(LANES):
        extent[j] = extent[LANES + j] = xs[LANES + j]
        extent[2 * LANES + j] = extent[3 * LANES + j] = ys[LANES + j]
    for step in range(1, steps + 1):
        row_x, row_y = xs[step * LANES : (step + 1) * LANES], ys[step * LANES : (step + 1) * LANES]
        for j in range(LANES):
            x, y = row_x[j], row_y[j]
            extent[j] = x if x < extent[j] else extent[j]
            extent[LANES + j] = x if x > extent[LANES + j] else extent[LANES + j]
            extent[2 * LANES + j] = y if y < extent[2 * LANES + j] else extent[2 * LANES + j]
            extent[3 * LANES + j] = y if y > extent[3 * LANES + j] else extent[3 * LANES + j]
    cells_across = np.float32((side - 1) * EXTENT_FACTOR)
    for j in range(LANES):
        span_x, span_y = extent[LANES + j] - extent[j], extent[3 * LANES + j] - extent[2 * LANES + j]
        visible[j] = is_visible(extent[j], extent[LANES + j], extent[2 * LANES + j], extent[3 * LANES + j])
        scale[j] = cells_across / span_x if visible[j] else np.float32(0.0)
        scale[LANES + j] = cells_across / span_y if visible[j] else np.float32(0.0)

    stride = side + 2
    grid = stride * stride
    counts[: LANES * grid] = 0
    row_step, first = np.float32(stride), np.float32(stride + 1)
    middle = np.int32((side // 2 + 1) * (stride + 1))
    for step in range(1, steps + 1):
        row_x, row_y = xs[step * LANES : (step + 1) * LANES], ys[step * LANES : (step + 1) * LANES]
        for j in range(LANES):
            row, column = (
                np.floor((row_x[j] - extent[j]) * scale[j]),
                np.floor((row_y[j] - extent[2 * LANES + j]) * scale[LANES + j]),
            )
            cell = np.int32(row * row_step + column + first)
            cells[j] = np.uint32((cell if visible[j] else middle) + np.int32(j * grid))
        for j in range(LANES):
            counts[cells[j]] += np.int32(1)
