"""The chaos game: the points of attractors, and how often they hit the cells of a grid.

A walk is a chain of dependent steps, in which a processor mostly waits. So 32 walks go side by side, each in a lane of
its own, and across the lanes a compiler vectorises. A very long walk has the lanes to itself: it forks into 32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.rng import CHOICE_RANGE, choice_bits, halves, subkey

LANES = 32
LONGEST_CHAIN = 16_384
"""Walks of more points than this fork."""
TRUNK = 2 * LANES
"""Points of a walk before it forks."""
EXPLODED = 1e6
"""Beyond this a walk counts as exploded."""
REACH = 1.0 + 2.0**-21
"""A hair more than 1, so that rounding leaves the outermost point in the last cell."""


class Walks(NamedTuple):
    """Scratch for 32 walks, lane by lane.

    Attributes:
        maps: ``(24 x 32,)``, float32: six numbers of each of four maps.
        cuts: ``(3 x 32,)``, int32: the choices at which the second, third and fourth map begin.
        low: ``(32,)``, uint32: the lower halves of the walks' random keys, and
        high: the upper ones.
        bits: ``(32,)``, uint32: the random bits of two steps.
        x: ``((1 + steps) x 32,)``, float32: where the walks start and then their points, step by step.
        y: likewise.
        extent: ``(4 x 32,)``, float32: least x, greatest x, least y, greatest y.
        scale: ``(2 x 32,)``, float32: from points to cells.
        shown: ``(32,)``, bool: whether there is anything to show.
        cells: ``(1024,)``, uint32: which cells some points hit.
    """

    maps: np.ndarray
    cuts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bits: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray
    scale: np.ndarray
    shown: np.ndarray
    cells: np.ndarray


@compiled()
def empty_walks(points: int) -> Walks:
    """Scratch for 32 walks of up to ``points`` points, or for one that forks."""
    room = points * LANES + LANES if points <= LONGEST_CHAIN else points + TRUNK + 2 * LANES
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
    """Put a code in a lane: map k is chosen with probability proportional to ``|det A_k|``.

    The walk starts at the fixed point of map 0, which lies on the attractor.

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
        used = min(k, n - 1)  # a map never chosen repeats the last one
        for i in range(6):
            walks.maps[(6 * k + i) * LANES + lane] = code[used, i // 3, i % 3]
        if k < n - 1:
            # Where every map is flat the areas say nothing, and all are equally likely.
            area = abs(code[k, 0, 0] * code[k, 1, 1] - code[k, 0, 1] * code[k, 1, 0])
            reached += area / total if total > 0.0 else 1.0 / n
        if k < 3:
            walks.cuts[k * LANES + lane] = int(reached * CHOICE_RANGE + 0.5) if k < n - 1 else CHOICE_RANGE
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
    """Fill the lanes from ``first`` on with the walk of lane 0: they are walked in any case."""
    for lane in range(first, LANES):
        for k in range(24):
            walks.maps[k * LANES + lane] = walks.maps[k * LANES]
        for k in range(3):
            walks.cuts[k * LANES + lane] = walks.cuts[k * LANES]
        walks.low[lane], walks.high[lane] = walks.low[0], walks.high[0]
        walks.x[lane], walks.y[lane] = walks.x[0], walks.y[0]


@kernel(inline="always")
def _draw_bits(step: int, walks: Walks) -> None:
    """Random bits of every lane for a step: the lower half of 32 for an even one, then the upper half."""
    bits, low, high = walks.bits, walks.low, walks.high
    if step % 2 == 0:
        for j in range(LANES):
            bits[j] = choice_bits(low[j], high[j], np.uint32(step // 2))
    else:
        for j in range(LANES):
            bits[j] = np.right_shift(bits[j], np.uint32(16))


@kernel()
def take_steps(steps: int, start: int, walks: Walks) -> None:
    """``steps`` steps in all lanes, from the 32 points at ``start`` on.

    Selects between four maps, rather than an index into a table of them, are what a compiler vectorises.
    """
    maps, cuts, bits, xs, ys = walks.maps, walks.cuts, walks.bits, walks.x, walks.y
    for step in range(steps):
        _draw_bits(step, walks)
        before = start + step * LANES
        from_x, from_y = xs[before : before + LANES], ys[before : before + LANES]
        to_x, to_y = xs[before + LANES : before + 2 * LANES], ys[before + LANES : before + 2 * LANES]
        for j in range(LANES):
            r = np.int32(bits[j] & np.uint32(0xFFFF))
            second, third, fourth = r >= cuts[j], r >= cuts[LANES + j], r >= cuts[2 * LANES + j]
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


@kernel()
def count_hits(steps: int, side: int, walks: Walks, counts: np.ndarray) -> None:
    """Count for each lane the points that fall into the cells of a grid; their bounding box fills it (x to rows).

    Where the points exploded (not finite, beyond 1e6) or collapsed (no extent) all are in one cell in the middle.

    Args:
        steps: points of each walk.
        side: a grid has ``side x side`` cells.
        walks: the points.
        counts: output, flat, int32: 32 grids of ``(side + 2)^2`` cells, each with a border of empty ones.
    """
    xs, ys, extent, scale, shown, cells = walks.x, walks.y, walks.extent, walks.scale, walks.shown, walks.cells
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
    reach = np.float32((side - 1) * REACH)
    for j in range(LANES):
        span_x, span_y = extent[LANES + j] - extent[j], extent[3 * LANES + j] - extent[2 * LANES + j]
        shown[j] = _can_be_shown(extent[j], extent[LANES + j], extent[2 * LANES + j], extent[3 * LANES + j])
        scale[j] = reach / span_x if shown[j] else np.float32(0.0)
        scale[LANES + j] = reach / span_y if shown[j] else np.float32(0.0)

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
            cells[j] = np.uint32((cell if shown[j] else middle) + np.int32(j * grid))
        for j in range(LANES):
            counts[cells[j]] += np.int32(1)


@kernel(inline="always")
def _can_be_shown(low_x: np.float32, high_x: np.float32, low_y: np.float32, high_y: np.float32) -> bool:
    finite = low_x > -EXPLODED and high_x < EXPLODED and low_y > -EXPLODED and high_y < EXPLODED
    return bool(finite and high_x - low_x >= 1e-6 and high_y - low_y >= 1e-6)


@kernel(inline="always")
def _take_long_steps(n: int, steps: int, walks: Walks) -> None:
    """``take_steps`` after the trunk, where all lanes hold the same ``n`` maps; a constant where this is inlined."""
    maps, bits, xs, ys = walks.maps, walks.bits, walks.x, walks.y
    cut_1, cut_2, cut_3 = walks.cuts[0], walks.cuts[LANES], walks.cuts[2 * LANES]
    a0, b0, e0 = maps[0], maps[LANES], maps[2 * LANES]
    c0, d0, f0 = maps[3 * LANES], maps[4 * LANES], maps[5 * LANES]
    a1, b1, e1 = maps[6 * LANES], maps[7 * LANES], maps[8 * LANES]
    c1, d1, f1 = maps[9 * LANES], maps[10 * LANES], maps[11 * LANES]
    a2, b2, e2 = maps[12 * LANES], maps[13 * LANES], maps[14 * LANES]
    c2, d2, f2 = maps[15 * LANES], maps[16 * LANES], maps[17 * LANES]
    a3, b3, e3 = maps[18 * LANES], maps[19 * LANES], maps[20 * LANES]
    c3, d3, f3 = maps[21 * LANES], maps[22 * LANES], maps[23 * LANES]
    for step in range(steps):
        _draw_bits(step, walks)
        after = TRUNK + step * LANES
        from_x, from_y = xs[after - LANES : after], ys[after - LANES : after]
        to_x, to_y = xs[after : after + LANES], ys[after : after + LANES]
        for j in range(LANES):
            r = np.int32(bits[j] & np.uint32(0xFFFF))
            second = r >= cut_1
            a, b, e = a1 if second else a0, b1 if second else b0, e1 if second else e0
            c, d, f = c1 if second else c0, d1 if second else d0, f1 if second else f0
            if n > 2:
                third = r >= cut_2
                a, b, e = a2 if third else a, b2 if third else b, e2 if third else e
                c, d, f = c2 if third else c, d2 if third else d, f2 if third else f
            if n > 3:
                fourth = r >= cut_3
                a, b, e = a3 if fourth else a, b3 if fourth else b, e3 if fourth else e
                c, d, f = c3 if fourth else c, d3 if fourth else d, f3 if fourth else f
            x, y = from_x[j], from_y[j]
            to_x[j] = a * x + b * y + e
            to_y[j] = c * x + d * y + f


@kernel()
def take_long_walk(code: np.ndarray, n: int, points: int, key: np.uint64, walks: Walks) -> None:
    """One walk in all lanes: after 64 steps it forks into 32, which go on from its last 32 points.

    The points are spread as those of one chain when each branch is much longer than the walk takes to forget where it
    was, as with the 100,000 points of an image of 224 px; with 1,000 points the image would be noisier.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        points: how many points, more than ``LONGEST_CHAIN``.
        key: the walk's random key; each branch has a key of its own.
        walks: its ``x`` and ``y`` begin with the points.
    """
    set_walk(code, n, key, 0, walks)
    repeat_walk(1, walks)
    cut_1, cut_2, cut_3 = walks.cuts[0], walks.cuts[LANES], walks.cuts[2 * LANES]
    x, y = walks.x[0], walks.y[0]
    low, high = halves(key)
    for step in range(TRUNK):
        r = np.int32(
            np.right_shift(choice_bits(low, high, np.uint32(step // 2)), np.uint32(16 * (step % 2))) & np.uint32(0xFFFF)
        )
        m = 6 * (int(r >= cut_1) + int(r >= cut_2) + int(r >= cut_3))
        a, b, e = walks.maps[m * LANES], walks.maps[(m + 1) * LANES], walks.maps[(m + 2) * LANES]
        c, d, f = walks.maps[(m + 3) * LANES], walks.maps[(m + 4) * LANES], walks.maps[(m + 5) * LANES]
        x, y = a * x + b * y + e, c * x + d * y + f
        walks.x[step], walks.y[step] = x, y
    for lane in range(LANES):
        walks.low[lane], walks.high[lane] = halves(subkey(key, lane))
    # A loop for each number of maps: the compiler leaves out the selects for maps that are not there.
    steps = (points - TRUNK + LANES - 1) // LANES
    if n == 2:
        _take_long_steps(2, steps, walks)
    elif n == 3:
        _take_long_steps(3, steps, walks)
    else:
        _take_long_steps(4, steps, walks)


@kernel()
def _extent(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.float32, np.float32]:
    """The least and the greatest of an array, float32, by way of those of 32 columns, which vectorises."""
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
    """``count_hits`` of one long walk: ``counts`` is one grid."""
    stride = side + 2
    counts[: stride * stride] = 0
    xs, ys, cells = walks.x[:points], walks.y[:points], walks.cells
    low_x, high_x = _extent(xs, walks.extent[:LANES], walks.extent[LANES : 2 * LANES])
    low_y, high_y = _extent(ys, walks.extent[:LANES], walks.extent[LANES : 2 * LANES])
    if not _can_be_shown(low_x, high_x, low_y, high_y):
        counts[(side // 2 + 1) * (stride + 1)] = points
        return
    reach = np.float32((side - 1) * REACH)
    scale_x, scale_y = reach / (high_x - low_x), reach / (high_y - low_y)
    row_step, first = np.float32(stride), np.float32(stride + 1)
    for start in range(0, points, cells.size):
        block_x, block_y = xs[start : start + cells.size], ys[start : start + cells.size]
        for i in range(block_x.size):
            row, column = np.floor((block_x[i] - low_x) * scale_x), np.floor((block_y[i] - low_y) * scale_y)
            cells[i] = np.uint32(np.int32(row * row_step + column + first))
        for i in range(block_x.size):
            counts[cells[i]] += np.int32(1)
