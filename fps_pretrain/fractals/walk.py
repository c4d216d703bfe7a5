"""The chaos game: the points of a code's attractor, and how often they hit the cells of a grid."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.rng import CHOICE_RANGE, fill_choices

EXPLODED = 1e6
"""Beyond this a walk counts as exploded."""
BLOCK = 1024
REACH = 1.0 + 2.0**-21
"""A hair more than 1, so that rounding leaves the outermost point in the last cell."""


class Walk(NamedTuple):
    """Scratch for one walk: which map each step takes, and where it leads.

    Attributes:
        bits: uint32, the random bits of two steps each.
        x: float32.
        y: float32.
        cells: ``(BLOCK,)``, int32, the cells that some of the points hit.
        maps: ``(4, 6)``, float32, the code's maps row by row.
        cuts: ``(3,)``, int32, the choices at which the second, third and fourth map begin.
        low: ``(64,)``, float32, for finding the least of many numbers.
        high: ``(64,)``, float32, for finding the greatest.
    """

    bits: np.ndarray
    x: np.ndarray
    y: np.ndarray
    cells: np.ndarray
    maps: np.ndarray
    cuts: np.ndarray
    low: np.ndarray
    high: np.ndarray


@compiled()
def empty_walk(points: int) -> Walk:
    """Scratch for walks of up to ``points`` points."""
    return Walk(
        np.empty((points + 1) // 2, np.uint32),
        np.empty(points, np.float32),
        np.empty(points, np.float32),
        np.empty(BLOCK, np.int32),
        np.empty((4, 6), np.float32),
        np.empty(3, np.int32),
        np.empty(64, np.float32),
        np.empty(64, np.float32),
    )


@kernel()
def branches(points: int) -> int:
    """Into how many branches a walk forks: the power of two nearest to the square root of its points, at most 1024."""
    return 2 ** min(10, max(0, round(math.log2(points) / 2.0)))


@kernel(inline="always")
def _continue_walk(n: int, trunk: int, fork: int, points: int, choices: np.ndarray, walk: Walk) -> None:
    """Points ``trunk`` .. ``points`` - 1 of a walk in ``fork`` branches, ``n`` a constant where this is inlined.

    Selects between sets of numbers, rather than an index into a table, are what a compiler vectorises.
    """
    a0, b0, e0, c0, d0, f0 = walk.maps[0]
    a1, b1, e1, c1, d1, f1 = walk.maps[1]
    a2, b2, e2, c2, d2, f2 = walk.maps[2]
    a3, b3, e3, c3, d3, f3 = walk.maps[3]
    cut_1, cut_2, cut_3 = walk.cuts[0], walk.cuts[1], walk.cuts[2]
    start = trunk
    while start < points:
        from_x, from_y = walk.x[start - fork : start], walk.y[start - fork : start]
        to_x, to_y, row = walk.x[start : start + fork], walk.y[start : start + fork], choices[start : start + fork]
        for j in range(min(fork, points - start)):
            r = np.int32(row[j])
            second = r >= cut_1
            ma, mb, me = a1 if second else a0, b1 if second else b0, e1 if second else e0
            mc, md, mf = c1 if second else c0, d1 if second else d0, f1 if second else f0
            if n > 2:
                third = r >= cut_2
                ma, mb, me = a2 if third else ma, b2 if third else mb, e2 if third else me
                mc, md, mf = c2 if third else mc, d2 if third else md, f2 if third else mf
            if n > 3:
                fourth = r >= cut_3
                ma, mb, me = a3 if fourth else ma, b3 if fourth else mb, e3 if fourth else me
                mc, md, mf = c3 if fourth else mc, d3 if fourth else md, f3 if fourth else mf
            px, py = from_x[j], from_y[j]
            to_x[j] = ma * px + mb * py + me
            to_y[j] = mc * px + md * py + mf
        start += fork


@kernel()
def take_walk(code: np.ndarray, n: int, points: int, key: np.uint64, walk: Walk) -> None:
    """Points of a code's attractor, map k chosen with probability proportional to ``|det A_k|``.

    The walk starts at the fixed point of map 0, which lies on the attractor. One walk is a chain of dependent steps
    that leaves a processor waiting; so after ``32 + b`` steps, long after it has forgotten its start, it forks into
    ``b = branches(points)`` walks, one from each of its last b points: point i follows point i - b. The points are
    spread as those of one long walk.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        points: how many points.
        key: the walk's random key.
        walk: output, its first ``points`` elements.
    """
    bits = walk.bits[: (points + 1) // 2]
    fill_choices(key, bits)
    choices = bits.view(np.uint16)
    maps, cuts = walk.maps, walk.cuts
    cuts[:] = CHOICE_RANGE
    total = 0.0
    for k in range(n):
        total += abs(code[k, 0, 0] * code[k, 1, 1] - code[k, 0, 1] * code[k, 1, 0])
    reached = 0.0
    for k in range(4):
        used = min(k, n - 1)  # a map never chosen repeats the last one
        for i in range(6):
            maps[k, i] = code[used, i // 3, i % 3]
        if k < n - 1:
            # Where every map is flat the areas say nothing, and all are equally likely.
            area = abs(code[k, 0, 0] * code[k, 1, 1] - code[k, 0, 1] * code[k, 1, 0])
            reached += area / total if total > 0.0 else 1.0 / n
            cuts[k] = int(reached * CHOICE_RANGE + 0.5)

    a, b, c, d = code[0, 0, 0], code[0, 0, 1], code[0, 1, 0], code[0, 1, 1]
    e, f = code[0, 0, 2], code[0, 1, 2]
    det = (1.0 - a) * (1.0 - d) - b * c
    x, y = np.float32(0.0), np.float32(0.0)
    if abs(det) > 1e-9:
        x = np.float32(((1.0 - d) * e + b * f) / det)
        y = np.float32((c * e + (1.0 - a) * f) / det)

    fork = branches(points)
    trunk = min(points, fork + 32)
    cut_1, cut_2, cut_3 = cuts[0], cuts[1], cuts[2]
    for i in range(trunk):
        r = np.int32(choices[i])
        k = int(r >= cut_1) + int(r >= cut_2) + int(r >= cut_3)
        x, y = maps[k, 0] * x + maps[k, 1] * y + maps[k, 2], maps[k, 3] * x + maps[k, 4] * y + maps[k, 5]
        walk.x[i] = x
        walk.y[i] = y

    # A loop for each number of maps: the compiler leaves out the selects for maps that are not there.
    if n == 2:
        _continue_walk(2, trunk, fork, points, choices, walk)
    elif n == 3:
        _continue_walk(3, trunk, fork, points, choices, walk)
    else:
        _continue_walk(4, trunk, fork, points, choices, walk)


@kernel()
def _extent(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.float32, np.float32]:
    """The least and the greatest of an array, float32, by way of those of 64 columns, which vectorises."""
    low[:] = values[0]
    high[:] = values[0]
    for start in range(0, values.size, 64):
        row = values[start : start + 64]
        for j in range(row.size):
            v = row[j]
            low[j] = v if v < low[j] else low[j]
            high[j] = v if v > high[j] else high[j]
    width = 32
    while width > 0:
        other_low, other_high = low[width:], high[width:]
        for j in range(width):
            low[j] = other_low[j] if other_low[j] < low[j] else low[j]
            high[j] = other_high[j] if other_high[j] > high[j] else high[j]
        width //= 2
    return low[0], high[0]


@kernel()
def hit_counts(walk: Walk, points: int, side: int, counts: np.ndarray) -> bool:
    """Count the points that fall into the cells of a grid; their bounding box fills it (x to rows, y to columns).

    Args:
        walk: the points.
        points: how many.
        side: the grid has ``side x side`` cells.
        counts: output, flat, int32, at least ``(side + 2)^2``: the grid with a border of empty cells.

    Returns:
        False, and no hits, when the points exploded (not finite, beyond 1e6) or collapsed (no extent).
    """
    stride = side + 2
    counts[: stride * stride] = 0
    xs, ys, cells = walk.x[:points], walk.y[:points], walk.cells
    low_x, high_x = _extent(xs, walk.low, walk.high)
    low_y, high_y = _extent(ys, walk.low, walk.high)
    finite = low_x > -EXPLODED and high_x < EXPLODED and low_y > -EXPLODED and high_y < EXPLODED
    if not (finite and high_x - low_x >= 1e-6 and high_y - low_y >= 1e-6):
        return False
    reach = np.float32((side - 1) * REACH)
    scale_x, scale_y = reach / (high_x - low_x), reach / (high_y - low_y)
    row_step, first = np.float32(stride), np.float32(stride + 1)
    for start in range(0, points, BLOCK):
        block_x, block_y = xs[start : start + BLOCK], ys[start : start + BLOCK]
        for i in range(block_x.size):
            row, column = np.floor((block_x[i] - low_x) * scale_x), np.floor((block_y[i] - low_y) * scale_y)
            cells[i] = np.int32(row * row_step + column + first)
        for i in range(block_x.size):
            counts[np.uint32(cells[i])] += np.int32(1)
    return True
