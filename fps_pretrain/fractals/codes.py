"""Codes: sampling of iterated function systems.

A code is ``n`` affine maps of the plane, an array ``(n, 2, 3)``: the linear parts are ``[:, :, :2]``, the translations
``[:, :, 2]``. Compiled code stores it in an array ``(4, 2, 3)`` and keeps ``n`` beside it. Sampling follows Anderson
and Farrell (WACV 2022, section 3.2) with the constants of Chen et al. (ICLR 2023).

A seed replaces the authors' file of codes. Class ``k`` of a seed has the same code on every machine. Codes are computed
when they are needed, so a million classes use no memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.chaos_game import LANES, Walks, count_hits, empty_walks, repeat_walk, set_walk, take_steps
from fps_pretrain.fractals.code_file import read_codes
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS, CodeNumbers
from fps_pretrain.fractals.rng import CODE_STREAM, PROBE_STREAM, chance, integer, make_key, uniform_in

# A code is used if 256 points of its attractor fall into at least 14 cells of a 16 x 16 grid. The authors' release uses
# every code.
PROBE_POINTS = 256
_PROBE_SIDE = 16
PROBE_GRID = (_PROBE_SIDE + 2) ** 2
_MIN_PROBE_CELLS = 14
_MAX_DRAWS = 32
_SLOT_MAPS, _SLOT_SIGMA, _SLOT_SINGULAR, _SLOT_LINEAR = 0, 1, 2, 16


class Codes(NamedTuple):
    """Codes from a file. Empty arrays stand for the codes of the seed.

    Attributes:
        maps: ``(classes, 4, 2, 3)``, float64.
        sizes: ``(classes,)``, int64, the number of maps of each.
    """

    maps: np.ndarray
    sizes: np.ndarray


SEEDED_CODES = Codes(np.empty((0, MAX_MAPS, 2, 3)), np.empty(0, np.int64))


def load_codes(path: Path | None) -> Codes:
    """The codes of a file, or ``SEEDED_CODES`` without one.

    Raises:
        UserError: see ``code_file.read_codes``.
    """
    return Codes(*read_codes(path)) if path else SEEDED_CODES


@kernel()
def sample_singular_values(key: np.uint64, n: int, numbers: CodeNumbers, values: np.ndarray) -> None:
    """Draw the singular values of n maps, ``0 <= s2 <= s1 <= 1``, with a given sum (Anderson and Farrell, section 3.2).

    The sum of ``s1 + 2 s2`` over all maps is the sigma-factor, uniform on [(5 + n) / 2, (6 + n) / 2] by default.
    ``p`` is what remains of it. ``q`` is the part that the current map must take, since each later map takes at most 3.

    Args:
        key: the code's key.
        n: number of maps.
        numbers: the recipe's.
        values: output ``(n, 2)``: s1 and s2 of each map.
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
def set_linear(linear: np.ndarray, u: float, s1: float, s2: float, v: float) -> None:
    """Write rotation by u, scaling by s1 and s2, rotation by v into the linear part of a map ``(2, 3)``."""
    cu, su, cv, sv = math.cos(u), math.sin(u), math.cos(v), math.sin(v)
    linear[0, 0] = cu * s1 * cv - su * s2 * sv
    linear[0, 1] = -cu * s1 * sv - su * s2 * cv
    linear[1, 0] = su * s1 * cv + cu * s2 * sv
    linear[1, 1] = -su * s1 * sv + cu * s2 * cv


@kernel()
def sample_code(key: np.uint64, numbers: CodeNumbers, code: np.ndarray) -> int:
    """Sample a code: n maps with uniform rotations, random signs of the axes and uniform translations.

    Args:
        key: the code's key.
        numbers: the recipe's.
        code: output ``(4, 2, 3)``, of which the first n maps are set.

    Returns:
        n, by default uniform on {2, 3, 4}.
    """
    n = numbers.min_maps + integer(key, _SLOT_MAPS, numbers.max_maps - numbers.min_maps + 1)
    singular = code[:, 0]  # scratch: row 0 of a map holds s1 and s2 until the map is written
    sample_singular_values(key, n, numbers, singular)
    for k in range(n):
        slot = _SLOT_LINEAR + 6 * k
        # Both rotations have random signs; only their product per singular direction matters.
        s1 = singular[k, 0] * (1.0 if chance(key, slot, 0.5) else -1.0)
        s2 = singular[k, 1] * (1.0 if chance(key, slot + 1, 0.5) else -1.0)
        u = uniform_in(key, slot + 2, -math.pi, math.pi)
        set_linear(code[k], u, s1, s2, uniform_in(key, slot + 3, -math.pi, math.pi))
        code[k, 0, 2] = uniform_in(key, slot + 4, -numbers.translation, numbers.translation)
        code[k, 1, 2] = uniform_in(key, slot + 5, -numbers.translation, numbers.translation)
    return n


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
    """Compute the codes of up to 32 classes.

    The code of a class is the first of its draws whose attractor is large enough to be seen (see ``PROBE_POINTS``).

    Args:
        numbers: the recipe's.
        seed: the seed of the codes.
        classes: ``(k,)``, int64.
        walks: scratch for at least 256 points.
        counts: scratch, at least 32 grids of 18 x 18 cells, int32.
        codes: output ``(k, 4, 2, 3)``.
        sizes: output ``(k,)``, int64, their numbers of maps.
    """
    for k in range(classes.size):
        sizes[k] = 0  # 0: no code yet; negative: a draw that is being tried; positive: done
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
def find_codes(
    numbers: CodeNumbers,
    given: Codes,
    seed: int,
    classes: np.ndarray,
    walks: Walks,
    counts: np.ndarray,
    codes: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """The codes of any number of classes, from a file if there is one.

    Args:
        numbers: the recipe's.
        given: codes of a file, or ``SEEDED_CODES``.
        seed: the seed of the codes.
        classes: ``(k,)``, int64.
        walks: scratch for at least 256 points.
        counts: scratch, at least 32 grids of 18 x 18 cells, int32.
        codes: output ``(k, 4, 2, 3)``.
        sizes: output ``(k,)``, int64, their numbers of maps.
    """
    if given.sizes.size:
        for k in range(classes.size):
            copy_code(given.maps[classes[k]], codes[k])
            sizes[k] = given.sizes[classes[k]]
    else:
        for start in range(0, classes.size, LANES):
            some = classes[start : min(classes.size, start + LANES)]
            class_codes(numbers, seed, some, walks, counts, codes[start:], sizes[start:])


@compiled()
def fill_code_table(numbers: CodeNumbers, seed: int, first: int, codes: np.ndarray, sizes: np.ndarray) -> None:
    """Compute the codes of classes ``first``, ``first`` + 1 and so on.

    Args:
        numbers: the recipe's.
        seed: the seed of the codes.
        first: the first class.
        codes: output ``(k, 4, 2, 3)``, float64.
        sizes: output ``(k,)``, int64, their numbers of maps.
    """
    walks, counts = empty_walks(PROBE_POINTS), np.empty(LANES * PROBE_GRID, np.int32)
    classes = np.arange(first, first + codes.shape[0])
    codes[:] = 0.0
    for start in range(0, classes.size, LANES):
        part = slice(start, start + LANES)
        class_codes(numbers, seed, classes[part], walks, counts, codes[part], sizes[part])
