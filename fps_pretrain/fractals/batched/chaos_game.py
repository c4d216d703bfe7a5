"""The chaos game of many codes at once."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.rng import random_bits, subkeys
from fps_pretrain.fractals.chaos_game import EXTENT_FACTOR, LANES, MAX_COORDINATE, MAX_SINGLE_WALK, POINTS_BEFORE_FORK
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS
from fps_pretrain.fractals.rng import CHOICE_RANGE

_STEPS_AT_ONCE = 64
"""Steps for which the maps are looked up together."""


def _choices(keys: Tensor, steps: int) -> Tensor:
    """The random choices 0 .. 65,535 of every step, for walks of keys ``(M,)``: ``(steps, M)``, int32."""
    bits = random_bits(keys, (steps + 1) // 2).T
    return torch.stack([bits & 0xFFFF, (bits >> 16) & 0xFFFF], dim=1).flatten(0, 1)[:steps]


def _steps(maps: Tensor, thresholds: Tensor, choices: Tensor, start: Tensor) -> Tensor:
    """``chaos_game.take_steps``.

    Args:
        maps: ``(N, 4, 6)``, float32.
        thresholds: ``(N, 4)``, int32: a choice below the first takes map 0, and so on.
        choices: ``(steps, N x branches)``, int32.
        start: ``(2, N x branches)``, float32, the start points.

    Returns:
        The points after each step, ``(steps, 2, N x branches)``.
    """
    steps, walks = choices.shape
    branches = walks // len(maps)
    threshold = thresholds.repeat_interleave(branches, dim=0)
    table = maps.flatten(0, 1)
    base = MAX_MAPS * torch.arange(len(maps), device=maps.device).repeat_interleave(branches)
    points = torch.empty(steps, 2, walks, device=maps.device)
    left, right = torch.empty_like(start), torch.empty_like(start)
    before = start
    for first in range(0, steps, _STEPS_AT_ONCE):
        some = choices[first : first + _STEPS_AT_ONCE]
        chosen = (some[..., None] >= threshold[:, : MAX_MAPS - 1]).sum(-1)
        numbers = table[base + chosen].unflatten(-1, (2, 3)).permute(0, 3, 2, 1)  # (steps, 3, 2, walks)
        for step, (from_x, from_y, shift) in enumerate(numbers.unbind(0), start=first):
            torch.mul(from_x, before[0], out=left)
            torch.mul(from_y, before[1], out=right)
            before = torch.add(left.add_(right), shift, out=points[step])
    return points


def _thresholds(maps: Tensor, sizes: Tensor) -> Tensor:
    """The thresholds of ``_steps``: map k is chosen with probability proportional to ``|det A_k|``."""
    number = torch.arange(MAX_MAPS, device=maps.device)
    last = (sizes - 1)[:, None]
    areas = (maps[..., 0, 0] * maps[..., 1, 1] - maps[..., 0, 1] * maps[..., 1, 0]).abs()
    areas = torch.where(number <= last, areas, 0.0)
    total = areas.cumsum(1)[:, -1:]
    shares = torch.where(total > 0.0, areas / total, 1.0 / sizes[:, None])
    return torch.where(number < last, (shares.cumsum(1) * CHOICE_RANGE + 0.5).int(), CHOICE_RANGE)


def _start_points(maps: Tensor) -> Tensor:
    """The fixed points of map 0, ``(2, N)``, float32."""
    a, b, c, d = maps[:, 0, 0, 0], maps[:, 0, 0, 1], maps[:, 0, 1, 0], maps[:, 0, 1, 1]
    e, f = maps[:, 0, 0, 2], maps[:, 0, 1, 2]
    det = (1.0 - a) * (1.0 - d) - b * c
    fixed = torch.stack([((1.0 - d) * e + b * f) / det, (c * e + (1.0 - a) * f) / det])
    return torch.where(det.abs() > 1e-9, fixed, 0.0).float()


def take_walks(maps: Tensor, sizes: Tensor, points: int, keys: Tensor) -> Tensor:
    """``chaos_game.take_steps`` or ``long_walk.take_long_walk`` of many codes.

    Args:
        maps: ``(N, 4, 2, 3)``, float64.
        sizes: ``(N,)``, their numbers of maps.
        points: points of each walk.
        keys: ``(N,)``, the walks' keys.

    Returns:
        ``(points, 2, N)``, float32.
    """
    thresholds, start, flat = _thresholds(maps, sizes), _start_points(maps), maps.flatten(2).float()
    if points <= MAX_SINGLE_WALK:
        return _steps(flat, thresholds, _choices(keys, points), start)
    before_fork = _steps(flat, thresholds, _choices(keys, POINTS_BEFORE_FORK), start)
    branch_keys = subkeys(keys[:, None], torch.arange(LANES, device=keys.device)).flatten()
    forked = before_fork[-LANES:].permute(1, 2, 0).flatten(1)  # (2, N x lanes)
    steps = -(-(points - POINTS_BEFORE_FORK) // LANES)
    branches = _steps(flat, thresholds, _choices(branch_keys, steps), forked)
    branches = branches.view(steps, 2, len(sizes), LANES).permute(0, 3, 1, 2).flatten(0, 1)
    return torch.cat([before_fork, branches[: points - POINTS_BEFORE_FORK]])


def count_hits(points: Tensor, side: int) -> Tensor:
    """``chaos_game.count_hits`` of points ``(P, 2, N)``: ``(N, side + 2, side + 2)``, int32, with an empty border."""
    stride = side + 2
    low, high = points.amin(0), points.amax(0)
    visible = ((low > -MAX_COORDINATE) & (high < MAX_COORDINATE) & (high - low >= 1e-6)).all(0)
    # torch computes scalar / tensor as scalar x reciprocal, which rounds twice; tensor / tensor rounds once.
    scale = torch.full_like(low, (side - 1) * EXTENT_FACTOR) / (high - low)
    row, column = ((points - low) * scale).floor().unbind(1)
    cells = torch.where(visible, row * stride + column + (stride + 1), (side // 2 + 1) * (side + 3)).long()
    counts = torch.zeros(points.shape[2], stride * stride, dtype=torch.int32, device=points.device)
    counts.scatter_add_(1, cells.T, torch.ones((), dtype=torch.int32, device=points.device).expand_as(cells.T))
    return counts.view(-1, stride, stride)
