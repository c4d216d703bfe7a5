"""Diamond-square textures, many at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fps_pretrain.fractals.batched.rng import random_bits


def _neighbours(grid: Tensor, distance: int, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """For some points of ``grid (M, side, side)``: the sum and the number of neighbours at a distance.

    The neighbours are those above, below, left and right that lie inside the grid.
    """
    side, total, count = grid.shape[1], torch.zeros(()), torch.zeros(())
    padded, there = (pad(g, (distance,) * 4) for g in (grid, torch.ones_like(grid[:1])))
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        window = (slice(None), slice(dy * distance, dy * distance + side), slice(dx * distance, dx * distance + side))
        total = total + padded[window][:, rows, columns]
        count = count + there[window][:, rows, columns]
    return total, count


def textures(size: int, keys: Tensor) -> Tensor:
    """``compose.texture.diamond_square`` for keys ``(M,)``: ``(M, size, size)``, float32 in [0, 1]."""
    extent = 1
    while extent + 1 < size:
        extent *= 2
    side = extent + 1
    bits = (random_bits(keys, side * side) >> 8) & 0xFFFFFF
    grid = (bits.float() * 2.0**-23 - 1.0).view(-1, side, side)
    step, amplitude = extent, 1.0
    while step > 1:
        half = step // 2
        corners = (grid[:, :-1:step, :-1:step] + grid[:, :-1:step, step::step]) + (
            grid[:, step::step, :-1:step] + grid[:, step::step, step::step]
        )
        grid[:, half::step, half::step] = corners * 0.25 + amplitude * grid[:, half::step, half::step]
        odd, even = slice(half, None, step), slice(0, None, step)
        for rows, columns in ((even, odd), (odd, even)):
            total, count = _neighbours(grid, half, rows, columns)
            grid[:, rows, columns] = total / count + amplitude * grid[:, rows, columns]
        step = half
        amplitude *= 0.5
    texture = grid[:, :size, :size]
    low, high = texture.amin((1, 2), keepdim=True), texture.amax((1, 2), keepdim=True)
    return (texture - low) / (high - low).clamp(min=1e-6)
