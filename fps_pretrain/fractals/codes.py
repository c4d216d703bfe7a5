"""Iterated function systems: sampling codes and jittering them.

A code is ``n`` affine maps of the plane in an array ``(n, 2, 3)``: the linear part in ``[:, :, :2]``, the translation
in ``[:, :, 2]``. Sampling follows Anderson and Farrell (WACV 2022, section 3.2) with the constants of Chen et al.
(ICLR 2023). A seed replaces the authors' file of codes: class ``k`` of a seed is the same code everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fps_pretrain.fractals.recipe import JITTER_BASIC, JITTER_FRACTALDB, JITTER_NONE, JITTER_SVD
from fps_pretrain.fractals.rng import CODE_STREAM, PROBE_STREAM, chance, integer, stream, uniform, uniform_in

MAX_MAPS = 4
JITTER_TRIES = 4

_PROBE_POINTS = 256
_PROBE_SIDE = 16
_MIN_PROBE_CELLS = 14


@njit(cache=True, nogil=True)
def sample_singular_values(state: np.ndarray, n: int) -> np.ndarray:
    """Singular values ``(n, 2)`` with ``0 <= s2 <= s1 <= 1`` whose sum of ``s1 + 2 s2`` is the drawn sigma-factor.

    The sigma-factor is uniform on [(5 + n) / 2, (6 + n) / 2]. ``p`` is what is left to spend, ``q`` the least that
    must be spent now so that the remaining maps (at most 3 each) can spend the rest.
    """
    values = np.empty((n, 2))
    alpha = uniform_in(state, (5.0 + n) / 2.0, (6.0 + n) / 2.0)
    p = alpha
    q = alpha - 3.0 * n + 3.0
    for k in range(n - 1):
        s1 = uniform_in(state, max(0.0, q / 3.0), min(1.0, p))
        p -= s1
        q -= s1
        s2 = uniform_in(state, max(0.0, q / 2.0), min(s1, p / 2.0))
        p -= 2.0 * s2
        q += 3.0 - 2.0 * s2
        values[k, 0] = s1
        values[k, 1] = s2
    s2 = uniform_in(state, max(0.0, (p - 1.0) / 2.0), p / 3.0)
    values[n - 1, 0] = p - 2.0 * s2
    values[n - 1, 1] = s2
    return values


@njit(cache=True, nogil=True)
def sample_code(state: np.ndarray) -> np.ndarray:
    """A code ``(n, 2, 3)`` with n uniform on {2, 3, 4}: rotations, random axis signs, translations in [-1, 1]^2."""
    n = 2 + integer(state, 3)
    singular = sample_singular_values(state, n)
    code = np.empty((n, 2, 3))
    for k in range(n):
        u = uniform_in(state, -math.pi, math.pi)
        v = uniform_in(state, -math.pi, math.pi)
        # Signs on the axes of both rotations: only their products per singular direction matter.
        s1 = singular[k, 0] * (1.0 if chance(state, 0.5) else -1.0)
        s2 = singular[k, 1] * (1.0 if chance(state, 0.5) else -1.0)
        cu, su, cv, sv = math.cos(u), math.sin(u), math.cos(v), math.sin(v)
        code[k, 0, 0] = cu * s1 * cv - su * s2 * sv
        code[k, 0, 1] = -cu * s1 * sv - su * s2 * cv
        code[k, 1, 0] = su * s1 * cv + cu * s2 * sv
        code[k, 1, 1] = -su * s1 * sv + cu * s2 * cv
        code[k, 0, 2] = uniform_in(state, -1.0, 1.0)
        code[k, 1, 2] = uniform_in(state, -1.0, 1.0)
    return code


@njit(cache=True, nogil=True)
def singular_values(a: float, b: float, c: float, d: float) -> tuple[float, float]:
    """The singular values of ``[[a, b], [c, d]]``, the larger first."""
    e, f = (a + d) / 2.0, (a - d) / 2.0
    g, h = (c + b) / 2.0, (c - b) / 2.0
    q, r = math.hypot(e, h), math.hypot(f, g)
    return q + r, abs(q - r)


@njit(cache=True, nogil=True)
def _is_contraction(code: np.ndarray) -> bool:
    for k in range(code.shape[0]):
        largest, _ = singular_values(code[k, 0, 0], code[k, 0, 1], code[k, 1, 0], code[k, 1, 1])
        if largest > 1.0:
            return False
    return True


@njit(cache=True, nogil=True)
def chaos_game(code: np.ndarray, points: int, state: np.ndarray) -> np.ndarray:
    """Points ``(points, 2)`` of the code's attractor: map k is chosen with probability proportional to ``|det A_k|``.

    The walk starts at the fixed point of map 0, which lies on the attractor.
    """
    n = code.shape[0]
    cumulative = np.empty(MAX_MAPS)
    total = 0.0
    for k in range(n):
        total += abs(code[k, 0, 0] * code[k, 1, 1] - code[k, 0, 1] * code[k, 1, 0])
        cumulative[k] = total
    if total <= 0.0:  # every map is flat: the areas say nothing, so all are equally likely
        for k in range(n):
            cumulative[k] = k + 1.0
        total = float(n)

    a, b, c, d = code[0, 0, 0], code[0, 0, 1], code[0, 1, 0], code[0, 1, 1]
    e, f = code[0, 0, 2], code[0, 1, 2]
    det = (1.0 - a) * (1.0 - d) - b * c
    x, y = 0.0, 0.0
    if abs(det) > 1e-9:
        x = ((1.0 - d) * e + b * f) / det
        y = (c * e + (1.0 - a) * f) / det

    walk = np.empty((points, 2))
    for i in range(points):
        r = uniform(state) * total
        k = 0
        while k < n - 1 and r >= cumulative[k]:
            k += 1
        x, y = (
            code[k, 0, 0] * x + code[k, 0, 1] * y + code[k, 0, 2],
            code[k, 1, 0] * x + code[k, 1, 1] * y + code[k, 1, 2],
        )
        walk[i, 0] = x
        walk[i, 1] = y
    return walk


@njit(cache=True, nogil=True)
def hit_counts(walk: np.ndarray, side: int, counts: np.ndarray) -> int:
    """Count the walk's points in the cells of ``counts (side, side)``, their bounding box filling it (x to rows).

    Returns:
        How many cells were hit, or 0 when the points exploded (not finite, beyond 1e6) or collapsed (no extent).
    """
    low_x = high_x = walk[0, 0]
    low_y = high_y = walk[0, 1]
    for i in range(walk.shape[0]):
        x, y = walk[i, 0], walk[i, 1]
        if not (abs(x) < 1e6 and abs(y) < 1e6):
            return 0
        low_x, high_x = min(low_x, x), max(high_x, x)
        low_y, high_y = min(low_y, y), max(high_y, y)
    if high_x - low_x < 1e-6 or high_y - low_y < 1e-6:
        return 0
    scale_x = (side - 1) / (high_x - low_x)
    scale_y = (side - 1) / (high_y - low_y)
    counts[:] = 0
    hit = 0
    for i in range(walk.shape[0]):
        row = int((walk[i, 0] - low_x) * scale_x)
        column = int((walk[i, 1] - low_y) * scale_y)
        if counts[row, column] == 0:
            hit += 1
        counts[row, column] += 1
    return hit


@njit(cache=True, nogil=True)
def class_code(seed: int, class_id: int) -> np.ndarray:
    """The code ``(n, 2, 3)`` of a class: the first of the class's draws whose attractor has an extent to show."""
    counts = np.empty((_PROBE_SIDE, _PROBE_SIDE), np.int32)
    attempt = 0
    while True:
        code = sample_code(stream(seed, CODE_STREAM, class_id, attempt))
        walk = chaos_game(code, _PROBE_POINTS, stream(seed, PROBE_STREAM, class_id, attempt))
        if hit_counts(walk, _PROBE_SIDE, counts) >= _MIN_PROBE_CELLS:
            return code
        attempt += 1


@njit(cache=True, nogil=True)
def _vary(code: np.ndarray, mode: int, state: np.ndarray) -> np.ndarray:
    """One candidate variation of a code; it may leave the unit ball."""
    n = code.shape[0]
    varied = code.copy()
    if mode == JITTER_BASIC:
        k = integer(state, n)
        factor = uniform_in(state, 0.8, 1.1)
        varied[k] *= factor
    elif mode == JITTER_FRACTALDB:
        # Kataoka et al. (ACCV 2020, section 3.2): one of the six parameters is weighted by 1 +- 0.1 or 0.2.
        column = integer(state, 6)
        weights = (0.8, 0.9, 1.1, 1.2)
        weight = weights[integer(state, 4)]
        for k in range(n):
            varied[k, column // 3, column % 3] *= weight
    else:
        for k in range(n):
            a, b, c, d = code[k, 0, 0], code[k, 0, 1], code[k, 1, 0], code[k, 1, 1]
            e, f = (a + d) / 2.0, (a - d) / 2.0
            g, h = (c + b) / 2.0, (c - b) / 2.0
            q, r = math.hypot(e, h), math.hypot(f, g)
            plus, minus = math.atan2(h, e), math.atan2(g, f)
            u, v = (plus + minus) / 2.0, (plus - minus) / 2.0
            s1 = (q + r) * uniform_in(state, 0.8, 1.1)
            s2 = (q - r) * uniform_in(state, 0.8, 1.1)  # negative where the map mirrors
            if mode == JITTER_SVD:
                u += uniform_in(state, -math.pi / 18.0, math.pi / 18.0)
                v += uniform_in(state, -math.pi / 18.0, math.pi / 18.0)
            cu, su, cv, sv = math.cos(u), math.sin(u), math.cos(v), math.sin(v)
            varied[k, 0, 0] = cu * s1 * cv - su * s2 * sv
            varied[k, 0, 1] = -cu * s1 * sv - su * s2 * cv
            varied[k, 1, 0] = su * s1 * cv + cu * s2 * sv
            varied[k, 1, 1] = -su * s1 * sv + cu * s2 * cv
    return varied


@njit(cache=True, nogil=True)
def jitter_code(code: np.ndarray, mode: int, state: np.ndarray) -> np.ndarray:
    """A variation of a code for one image; the code itself when four tries all leave the unit ball.

    Args:
        code: ``(n, 2, 3)``.
        mode: an index into ``recipe.JITTERS``. ``basic`` multiplies one random map by U(0.8, 1.1); ``fractaldb`` one
            of the six parameters of every map by 0.8, 0.9, 1.1 or 1.2; ``sval`` every singular value by U(0.8, 1.1);
            ``svd`` does that and turns both rotations by up to 10 degrees.
        state: the random stream.
    """
    if mode != JITTER_NONE:
        for _ in range(JITTER_TRIES):
            varied = _vary(code, mode, state)
            if _is_contraction(varied):
                return varied
    return code
