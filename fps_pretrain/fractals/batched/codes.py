"""The codes of all classes on a device, and their jitter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fps_pretrain.fractals.batched.rng import integers, uniforms
from fps_pretrain.fractals.codes import Codes, fill_code_table
from fps_pretrain.fractals.jitter import JITTER_SLOTS, JITTER_TRIES
from fps_pretrain.fractals.recipe import JITTER_BASIC, JITTER_FRACTALDB, JITTER_NONE, JITTER_SVD, Recipe
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS


class CodeTable(NamedTuple):
    """The codes of all classes on a device.

    Attributes:
        maps: ``(classes, 4, 2, 3)``, float64.
        sizes: ``(classes,)``, int64.
    """

    maps: Tensor
    sizes: Tensor


def code_table(recipe: Recipe, codes: Codes, seed: int, device: torch.device) -> CodeTable:
    """Compute all codes of a run by compiled code and copy them to a device; a million classes take about a second.

    Args:
        recipe: the recipe.
        codes: codes of a file, or ``SEEDED_CODES``.
        seed: the seed of the codes.
        device: where to put them.
    """
    maps, sizes = codes
    if not sizes.size:
        maps, sizes = np.empty((recipe.num_classes, MAX_MAPS, 2, 3)), np.empty(recipe.num_classes, np.int64)
        fill_code_table(recipe.codes, seed, 0, maps, sizes)
    return CodeTable(torch.from_numpy(maps).to(device), torch.from_numpy(sizes).to(device))


def _rotation_products(u: Tensor, s1: Tensor, s2: Tensor, v: Tensor) -> Tensor:
    """``codes.set_linear``: rotation by u, scaling by s1 and s2, rotation by v, ``(..., 2, 2)``."""
    cu, su, cv, sv = u.cos(), u.sin(), v.cos(), v.sin()
    rows = [
        cu * s1 * cv - su * s2 * sv,
        -cu * s1 * sv - su * s2 * cv,
        su * s1 * cv + cu * s2 * sv,
        -su * s1 * sv + cu * s2 * cv,
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


def _singular_parts(linear: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The intermediate values e, f, g, h of ``jitter.singular_values`` for linear parts ``(..., 2, 2)``."""
    a, b, c, d = linear[..., 0, 0], linear[..., 0, 1], linear[..., 1, 0], linear[..., 1, 1]
    return (a + d) / 2.0, (a - d) / 2.0, (c + b) / 2.0, (c - b) / 2.0


def _jitter_once(maps: Tensor, sizes: Tensor, recipe: Recipe, keys: Tensor, slot: int) -> Tensor:
    """``jitter._jitter_once`` for codes ``(N, 4, 2, 3)``."""
    mode, low, high = recipe.jitter, recipe.image.jitter_low, recipe.image.jitter_high
    number = torch.arange(MAX_MAPS, device=maps.device)
    if mode == JITTER_BASIC:
        factor = uniforms(keys, slot + 1, low, high)
        chosen = number == integers(keys, slot, sizes)[:, None]
        return maps * torch.where(chosen, factor[:, None], 1.0)[:, :, None, None]
    if mode == JITTER_FRACTALDB:
        choice = integers(keys, slot + 1, 4)
        weight = 0.8 + 0.1 * (choice + (choice > 1)).double()
        chosen = torch.arange(6, device=maps.device) == integers(keys, slot, 6)[:, None]
        return maps * torch.where(chosen, weight[:, None], 1.0).view(-1, 1, 2, 3)
    e, f, g, h = _singular_parts(maps[..., :2])
    q, r = (e * e + h * h).sqrt(), (f * f + g * g).sqrt()
    plus, minus = torch.atan2(h, e), torch.atan2(g, f)
    u, v = (plus + minus) / 2.0, (plus - minus) / 2.0
    draws = slot + 4 * number
    s1 = (q + r) * uniforms(keys[:, None], draws, low, high)
    s2 = (q - r) * uniforms(keys[:, None], draws + 1, low, high)
    if mode == JITTER_SVD:
        turn = torch.pi / 18.0
        u = u + uniforms(keys[:, None], draws + 2, -turn, turn)
        v = v + uniforms(keys[:, None], draws + 3, -turn, turn)
    return torch.cat([_rotation_products(u, s1, s2, v), maps[..., 2:]], dim=-1)


def jitter_codes(maps: Tensor, sizes: Tensor, recipe: Recipe, keys: Tensor) -> Tensor:
    """``jitter.jitter_code`` for codes ``(N, 4, 2, 3)``, sizes ``(N,)`` and image keys ``(N,)``; returns new codes."""
    if recipe.jitter == JITTER_NONE:
        return maps
    used = torch.arange(MAX_MAPS, device=maps.device) < sizes[:, None]
    result, done = maps, torch.zeros_like(sizes, dtype=torch.bool)
    for attempt in range(JITTER_TRIES):
        varied = _jitter_once(maps, sizes, recipe, keys, attempt * JITTER_SLOTS)
        e, f, g, h = _singular_parts(varied[..., :2])
        largest = (e * e + h * h).sqrt() + (f * f + g * g).sqrt()
        fits = ((largest <= 1.0) | ~used).all(dim=1)
        result = torch.where((fits & ~done)[:, None, None, None], varied, result)
        done = done | fits
    return result
