"""Iterated function systems: sampling codes, jittering them, and files of codes.

A code is ``n`` affine maps of the plane in an array ``(n, 2, 3)``: the linear part in ``[:, :, :2]``, the translation
in ``[:, :, 2]``. Compiled code holds it in an array ``(4, 2, 3)`` beside its ``n``. Sampling follows Anderson and
Farrell (WACV 2022, section 3.2) with the constants of Chen et al. (ICLR 2023). A seed replaces the authors' file of
codes: class ``k`` of a seed is the same code everywhere, worked out where it is needed, so that a million classes cost
no memory.
"""

from __future__ import annotations

import math

import numpy as np

from fps_pretrain.fractals.chaos_game import LANES, Walks, count_hits, empty_walks, repeat_walk, set_walk, take_steps
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe import (
    JITTER_BASIC,
    JITTER_FRACTALDB,
    JITTER_NONE,
    JITTER_SVD,
    MAX_MAPS,
    CodeNumbers,
    ImageNumbers,
)
from fps_pretrain.fractals.rng import CODE_STREAM, PROBE_STREAM, chance, integer, make_key, uniform_in

JITTER_TRIES = 4
JITTER_SLOTS = 16
"""Random numbers set aside for one try."""

PROBE_POINTS = 256
_PROBE_SIDE = 16
PROBE_GRID = (_PROBE_SIDE + 2) ** 2
_MIN_PROBE_CELLS = 14
_MAX_DRAWS = 32

_SLOT_MAPS, _SLOT_SIGMA, _SLOT_SINGULAR, _SLOT_LINEAR = 0, 1, 2, 16


@kernel()
def sample_singular_values(key: np.uint64, n: int, numbers: CodeNumbers, values: np.ndarray) -> None:
    """Fill ``values (n, 2)``, ``0 <= s2 <= s1 <= 1``; the sum of ``s1 + 2 s2`` is the drawn sigma-factor.

    The sigma-factor is uniform on [(5 + n) / 2, (6 + n) / 2] by default. ``p`` is what is left to spend, ``q`` the
    least that must be spent now so that the remaining maps (at most 3 each) can spend the rest.
    """
    alpha = uniform_in(key, _SLOT_SIGMA, (numbers.sigma_low + n) / 2.0, (numbers.sigma_high + n) / 2.0)
    p = alpha
    q = alpha - 3.0 * n + 3.0
    for k in range(n - 1):
        s1 = uniform_in(key, _SLOT_SINGULAR + 2 * k, max(0.0, q / 3.0), min(1.0, p))
        p -= s1
        q -= s1
        s2 = uniform_in(key, _SLOT_SINGULAR + 2 * k + 1, max(0.0, q / 2.0), min(s1, p / 2.0))
        p -= 2.0 * s2
        q += 3.0 - 2.0 * s2
        values[k, 0] = s1
        values[k, 1] = s2
    s2 = uniform_in(key, _SLOT_SINGULAR + 2 * n - 2, max(0.0, (p - 1.0) / 2.0), p / 3.0)
    values[n - 1, 0] = p - 2.0 * s2
    values[n - 1, 1] = s2


@kernel()
def _set_linear(linear: np.ndarray, u: float, s1: float, s2: float, v: float) -> None:
    """Write rotation by u, scaling by s1 and s2, rotation by v into the linear part of a map ``(2, 3)``."""
    cu, su, cv, sv = math.cos(u), math.sin(u), math.cos(v), math.sin(v)
    linear[0, 0] = cu * s1 * cv - su * s2 * sv
    linear[0, 1] = -cu * s1 * sv - su * s2 * cv
    linear[1, 0] = su * s1 * cv + cu * s2 * sv
    linear[1, 1] = -su * s1 * sv + cu * s2 * cv


@kernel()
def sample_code(key: np.uint64, numbers: CodeNumbers, code: np.ndarray) -> int:
    """Fill ``code (4, 2, 3)`` with n maps, n uniform on {2, 3, 4} by default, and return n.

    Rotations are uniform, the axes have random signs, translations are uniform on [-1, 1]^2 by default.
    """
    n = numbers.min_maps + integer(key, _SLOT_MAPS, numbers.max_maps - numbers.min_maps + 1)
    singular = code[:, 0]  # each map's values lie where its rotations will be written
    sample_singular_values(key, n, numbers, singular)
    for k in range(n):
        slot = _SLOT_LINEAR + 6 * k
        # Signs on the axes of both rotations: only their products per singular direction matter.
        s1 = singular[k, 0] * (1.0 if chance(key, slot, 0.5) else -1.0)
        s2 = singular[k, 1] * (1.0 if chance(key, slot + 1, 0.5) else -1.0)
        u = uniform_in(key, slot + 2, -math.pi, math.pi)
        _set_linear(code[k], u, s1, s2, uniform_in(key, slot + 3, -math.pi, math.pi))
        code[k, 0, 2] = uniform_in(key, slot + 4, -numbers.translation, numbers.translation)
        code[k, 1, 2] = uniform_in(key, slot + 5, -numbers.translation, numbers.translation)
    return n


@kernel()
def singular_values(a: float, b: float, c: float, d: float) -> tuple[float, float]:
    """The singular values of ``[[a, b], [c, d]]``, the larger first."""
    e, f = (a + d) / 2.0, (a - d) / 2.0
    g, h = (c + b) / 2.0, (c - b) / 2.0
    q, r = math.sqrt(e * e + h * h), math.sqrt(f * f + g * g)
    return q + r, abs(q - r)


@kernel()
def is_contraction(code: np.ndarray, n: int) -> bool:
    """Whether no map has a singular value above 1."""
    for k in range(n):
        largest, _ = singular_values(code[k, 0, 0], code[k, 0, 1], code[k, 1, 0], code[k, 1, 1])
        if largest > 1.0:
            return False
    return True


@kernel()
def class_codes(
    numbers: CodeNumbers,
    seed: int,
    classes: np.ndarray,
    walks: Walks,
    counts: np.ndarray,
    codes: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Work out the codes of up to 32 classes.

    A class's code is the first of its draws whose attractor, seen by 256 points, has an extent to show.

    Args:
        numbers: the recipe's.
        seed: the seed of the codes.
        classes: ``(k,)``, int64.
        walks: scratch for at least 256 points.
        counts: scratch, at least 32 grids of 18 x 18 cells, int32.
        codes: output ``(k, 4, 2, 3)``.
        sizes: output ``(k,)``, int64, their numbers of maps; 0 while a class is looked for.
    """
    for k in range(classes.size):
        sizes[k] = 0
    for attempt in range(_MAX_DRAWS):
        lanes = 0
        for k in range(classes.size):
            if sizes[k] <= 0:
                sizes[k] = -sample_code(make_key(seed, CODE_STREAM, classes[k], attempt), numbers, codes[k])
                set_walk(codes[k], -sizes[k], make_key(seed, PROBE_STREAM, classes[k], attempt), lanes, walks)
                lanes += 1
        if lanes == 0:
            return
        repeat_walk(lanes, walks)
        take_steps(PROBE_POINTS, 0, walks)
        count_hits(PROBE_POINTS, _PROBE_SIDE, walks, counts)
        lanes = 0
        for k in range(classes.size):
            if sizes[k] < 0:
                hit = 0
                for i in range(lanes * PROBE_GRID, (lanes + 1) * PROBE_GRID):
                    hit += counts[i] > 0
                lanes += 1
                if hit >= _MIN_PROBE_CELLS or attempt == _MAX_DRAWS - 1:
                    sizes[k] = -sizes[k]


@kernel()
def copy_code(code: np.ndarray, out: np.ndarray) -> None:
    """Copy a code ``(4, 2, 3)``."""
    for k in range(MAX_MAPS):
        for i in range(2):
            for j in range(3):
                out[k, i, j] = code[k, i, j]


@kernel()
def _vary(
    code: np.ndarray, n: int, mode: int, numbers: ImageNumbers, key: np.uint64, slot: int, varied: np.ndarray
) -> None:
    """One candidate variation of a code; it may leave the unit ball."""
    copy_code(code, varied)
    if mode == JITTER_BASIC:
        k = integer(key, slot, n)
        factor = uniform_in(key, slot + 1, numbers.jitter_low, numbers.jitter_high)
        for i in range(2):
            for j in range(3):
                varied[k, i, j] *= factor
    elif mode == JITTER_FRACTALDB:
        # Kataoka et al. (ACCV 2020, section 3.2): one of the six parameters is weighted by 1 +- 0.1 or 0.2.
        column = integer(key, slot, 6)
        choice = integer(key, slot + 1, 4)
        weight = 0.8 + 0.1 * (choice + (1 if choice > 1 else 0))
        for k in range(n):
            varied[k, column // 3, column % 3] *= weight
    else:
        for k in range(n):
            a, b, c, d = code[k, 0, 0], code[k, 0, 1], code[k, 1, 0], code[k, 1, 1]
            e, f = (a + d) / 2.0, (a - d) / 2.0
            g, h = (c + b) / 2.0, (c - b) / 2.0
            q, r = math.sqrt(e * e + h * h), math.sqrt(f * f + g * g)
            plus, minus = math.atan2(h, e), math.atan2(g, f)
            u, v = (plus + minus) / 2.0, (plus - minus) / 2.0
            s1 = (q + r) * uniform_in(key, slot + 4 * k, numbers.jitter_low, numbers.jitter_high)
            s2 = (q - r) * uniform_in(
                key, slot + 4 * k + 1, numbers.jitter_low, numbers.jitter_high
            )  # negative where the map mirrors
            if mode == JITTER_SVD:
                u += uniform_in(key, slot + 4 * k + 2, -math.pi / 18.0, math.pi / 18.0)
                v += uniform_in(key, slot + 4 * k + 3, -math.pi / 18.0, math.pi / 18.0)
            _set_linear(varied[k], u, s1, s2, v)


@kernel()
def jitter_code(code: np.ndarray, n: int, mode: int, numbers: ImageNumbers, key: np.uint64, varied: np.ndarray) -> None:
    """Write a variation of a code for one image; the code itself when four tries all leave the unit ball.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        mode: an index into ``recipe.JITTERS``. ``basic`` multiplies one random map by U(0.8, 1.1); ``fractaldb`` one
            of the six parameters of every map by 0.8, 0.9, 1.1 or 1.2; ``sval`` every singular value by U(0.8, 1.1);
            ``svd`` does that and turns both rotations by up to 10 degrees.
        numbers: the recipe's.
        key: the image's key; its first 64 slots are used here.
        varied: output ``(4, 2, 3)``.
    """
    if mode != JITTER_NONE:
        for attempt in range(JITTER_TRIES):
            _vary(code, n, mode, numbers, key, attempt * JITTER_SLOTS, varied)
            if is_contraction(varied, n):
                return
    copy_code(code, varied)


@compiled()
def fill_code_table(numbers: CodeNumbers, seed: int, first: int, codes: np.ndarray, sizes: np.ndarray) -> None:
    """Write the codes of classes ``first``, ``first`` + 1 ... into ``codes (k, 4, 2, 3)``, their n into ``sizes``."""
    walks, counts = empty_walks(PROBE_POINTS), np.empty(LANES * PROBE_GRID, np.int32)
    classes = np.arange(first, first + codes.shape[0])
    codes[:] = 0.0
    for start in range(0, classes.size, LANES):
        part = slice(start, start + LANES)
        class_codes(numbers, seed, classes[part], walks, counts, codes[part], sizes[part])
