"""Jitter: small random changes of a code, so that two images of a class differ."""

from __future__ import annotations

import math

import numpy as np

from fps_pretrain.fractals.codes import copy_code, set_linear
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.recipe import JITTER_BASIC, JITTER_FRACTALDB, JITTER_NONE, JITTER_SVD
from fps_pretrain.fractals.recipe_numbers import ImageNumbers
from fps_pretrain.fractals.rng import integer, uniform_in

JITTER_TRIES = 4
"""Attempts at a change that keeps all singular values at 1 or less (authors' release)."""
JITTER_SLOTS = 16
"""Slots of an image's key that are reserved for one attempt."""


@kernel()
def singular_values(a: float, b: float, c: float, d: float) -> tuple[float, float]:
    """The singular values of ``[[a, b], [c, d]]``, the larger first."""
    e, f = (a + d) / 2.0, (a - d) / 2.0
    g, h = (c + b) / 2.0, (c - b) / 2.0
    q, r = math.sqrt(e * e + h * h), math.sqrt(f * f + g * g)
    return q + r, abs(q - r)


@kernel()
def is_contraction(code: np.ndarray, n: int) -> bool:
    """Whether all singular values of a code ``(4, 2, 3)`` with n maps are at most 1."""
    for k in range(n):
        largest, _ = singular_values(code[k, 0, 0], code[k, 0, 1], code[k, 1, 0], code[k, 1, 1])
        if largest > 1.0:
            return False
    return True


@kernel()
def _jitter_once(
    code: np.ndarray, n: int, mode: int, numbers: ImageNumbers, key: np.uint64, slot: int, varied: np.ndarray
) -> None:
    """Change a code at random; see ``jitter_code``. Singular values may exceed 1."""
    copy_code(code, varied)
    if mode == JITTER_BASIC:
        k = integer(key, slot, n)
        factor = uniform_in(key, slot + 1, numbers.jitter_low, numbers.jitter_high)
        for i in range(2):
            for j in range(3):
                varied[k, i, j] *= factor
    elif mode == JITTER_FRACTALDB:
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
            # q - r is negative if the map mirrors.
            s2 = (q - r) * uniform_in(key, slot + 4 * k + 1, numbers.jitter_low, numbers.jitter_high)
            if mode == JITTER_SVD:
                u += uniform_in(key, slot + 4 * k + 2, -math.pi / 18.0, math.pi / 18.0)
                v += uniform_in(key, slot + 4 * k + 3, -math.pi / 18.0, math.pi / 18.0)
            set_linear(varied[k], u, s1, s2, v)


@kernel()
def jitter_code(code: np.ndarray, n: int, mode: int, numbers: ImageNumbers, key: np.uint64, varied: np.ndarray) -> None:
    """Change a code for one image. After four attempts with a singular value above 1 the code stays as it is.

    ``basic`` multiplies one random map by U(0.8, 1.1) (authors' release). ``fractaldb`` multiplies one of the six
    parameters of every map by 0.8, 0.9, 1.1 or 1.2 (Kataoka et al., ACCV 2020, section 3.2). ``sval`` multiplies every
    singular value by U(0.8, 1.1); ``svd`` also turns both rotations by up to 10 degrees. The release has both modes;
    these ranges are our own.

    Args:
        code: ``(4, 2, 3)``.
        n: its number of maps.
        mode: index into ``recipe.JITTERS``.
        numbers: the recipe's.
        key: the image's key; the first 64 slots are used.
        varied: output ``(4, 2, 3)``.
    """
    if mode != JITTER_NONE:
        for attempt in range(JITTER_TRIES):
            _jitter_once(code, n, mode, numbers, key, attempt * JITTER_SLOTS, varied)
            if is_contraction(varied, n):
                return
    copy_code(code, varied)
