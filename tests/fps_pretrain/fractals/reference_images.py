"""The reference's codes and their grey images."""

import math

import numpy as np

from fps_pretrain.fractals import codes, jitter, render
from fps_pretrain.fractals.chaos_game import LANES, MAX_SINGLE_WALK, POINTS_BEFORE_FORK
from fps_pretrain.fractals.recipe import JITTER_NONE
from tests.fps_pretrain.fractals.reference_draws import chance, integer

# Section 1: codes. A code is an array (n, 2, 3): the linear parts and the translations of its maps.


def sample_code(numbers, draws):
    n = numbers.min_maps + integer(draws, codes._SLOT_MAPS, numbers.max_maps - numbers.min_maps + 1)
    alpha = draws.uniform(codes._SLOT_SIGMA, (numbers.sigma_low + n) / 2, (numbers.sigma_high + n) / 2)
    p, q = alpha, alpha - 3 * n + 3
    singular = []
    for k in range(n - 1):
        s1 = draws.uniform(codes._SLOT_SINGULAR + 2 * k, max(0, q / 3), min(1, p))
        p, q = p - s1, q - s1
        s2 = draws.uniform(codes._SLOT_SINGULAR + 2 * k + 1, max(0, q / 2), min(s1, p / 2))
        p, q = p - 2 * s2, q + 3 - 2 * s2
        singular.append((s1, s2))
    s2 = draws.uniform(codes._SLOT_SINGULAR + 2 * n - 2, max(0, (p - 1) / 2), p / 3)
    singular.append((p - 2 * s2, s2))
    code = np.empty((n, 2, 3))
    for k, (s1, s2) in enumerate(singular):
        slot = codes._SLOT_LINEAR + 6 * k
        sign1 = 1 if chance(draws, slot, 0.5) else -1
        sign2 = 1 if chance(draws, slot + 1, 0.5) else -1
        u, v = (draws.uniform(slot + i, -math.pi, math.pi) for i in (2, 3))
        code[k, :, :2] = rotation(u) @ np.diag([sign1 * s1, sign2 * s2]) @ rotation(v)
        code[k, :, 2] = [draws.uniform(slot + i, -numbers.translation, numbers.translation) for i in (4, 5)]
    return code


def shown_code(numbers, draws):
    """A code whose attractor has an extent to show: 256 points hit 14 cells of 16 x 16. (The paper shows all.)"""
    while True:
        code = sample_code(numbers, draws)
        if (hit_counts(chaos_game(code, 256, draws), 16) > 0).sum() >= 14:
            return code


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def jittered(code, recipe, draws):
    """Jitter "none", or "basic": one random map times U(0.8, 1.1), up to 4 tries while a singular value exceeds 1."""
    numbers = recipe.image
    for attempt in range(0 if recipe.jitter == JITTER_NONE else 4):
        varied = code.copy()
        slot = attempt * jitter.JITTER_SLOTS
        k = integer(draws, slot, len(code))
        varied[k] *= draws.uniform(slot + 1, numbers.jitter_low, numbers.jitter_high)
        if np.linalg.norm(varied[:, :, :2], ord=2, axis=(1, 2)).max() <= 1:
            return varied
    return code


# Section 2: rendering.


def chaos_game(code, points, draws):
    """Points (points, 2) of the attractor: map k with probability proportional to |det A_k|."""
    areas = np.abs(np.linalg.det(code[:, :, :2]))
    cuts = np.floor(np.cumsum(areas / areas.sum()) * 65_536 + 0.5)[:-1]
    start = np.linalg.solve(np.eye(2) - code[0, :, :2], code[0, :, 2])

    def chain(start, choices):
        visited, (x, y) = [], start
        for k in (choices[:, None] >= cuts).sum(axis=1):
            (a, b, e), (c, d, f) = maps[k]
            x, y = a * x + b * y + e, c * x + d * y + f
            visited.append((x, y))
        return np.array(visited)

    if draws.one_chain:
        maps = code.tolist()
        return chain(start, draws.choices(points))
    maps = code.astype(np.float32)  # compiled code walks in single precision
    start = start.astype(np.float32)
    if points <= MAX_SINGLE_WALK:
        return chain(start, draws.choices(points))
    # A very long walk forks into 32: its branches go on from the last points of its first steps.
    trunk = chain(start, draws.choices(POINTS_BEFORE_FORK))
    steps = -(-(points - POINTS_BEFORE_FORK) // LANES)
    ends = trunk[-LANES:]
    branches = [chain(end, draws.child(lane).choices(steps)) for lane, end in enumerate(ends)]
    return np.concatenate([trunk, np.stack(branches, axis=1).reshape(-1, 2)])[:points]


def hit_counts(points, side):
    """How many points fall into each cell; the bounding box fills the image, x to rows."""
    low, high = points.min(axis=0), points.max(axis=0)
    if (high - low).min() < 1e-6 or np.abs(points).max() > 1e6:  # nothing to show
        return np.zeros((side, side), int)
    scale = np.asarray((side - 1) * (1 + 2**-21), points.dtype) / (high - low)  # a hair more, against rounding
    rows, columns = ((points - low) * scale).astype(int).T
    counts = np.zeros((side, side), int)
    np.add.at(counts, (rows, columns), 1)
    return counts


def grey_image(code, recipe, draws):
    """A grey image of a code: -1 where there is nothing, else 0 .. 255."""
    counts = hit_counts(
        chaos_game(jittered(code, recipe, draws), recipe.points, draws.child(render.SLOT_WALK)),
        recipe.render_side,
    )
    if not counts.any():
        counts[recipe.render_side // 2, recipe.render_side // 2] = recipe.points
    patch = [chance(draws, render.SLOT_PATCH + cell, recipe.image.cell_probability) for cell in range(9)]
    if not any(patch):
        patch[integer(draws, render.SLOT_PATCH + 9, 9)] = True
    padded = np.pad(counts, 1)
    side = recipe.render_side
    stamped = np.zeros((side, side), int)
    for cell in np.flatnonzero(patch):
        dy, dx = cell // 3 - 1, cell % 3 - 1
        stamped += padded[1 - dy : 1 - dy + side, 1 - dx : 1 - dx + side]
    return np.where(stamped > 0, stamped * 255 // stamped.max(), -1)
