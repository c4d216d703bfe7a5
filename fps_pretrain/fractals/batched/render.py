"""Grey images of many codes at once: int32, 0 where there is nothing, else 1 + grey."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.chaos_game import count_hits, take_walks
from fps_pretrain.fractals.batched.codes import CodeTable, jitter_codes
from fps_pretrain.fractals.batched.rng import integers, subkeys, uniforms
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.fractals.render import SLOT_PATCH, SLOT_WALK

_POINTS_AT_ONCE = 2**26
"""Most points of the chaos game in memory at the same time: about 3 GB."""


def stamp(counts: Tensor, patches: Tensor) -> Tensor:
    """``render.stamp`` of hits ``(N, side + 2, side + 2)`` and patches ``(N,)``: ``(N, side, side)``, int32."""
    side = counts.shape[1] - 2
    sums = torch.zeros(len(counts), side, side, dtype=torch.int32, device=counts.device)
    for cell in range(9):
        dy, dx = cell // 3 - 1, cell % 3 - 1
        on = ((patches >> cell) & 1).int()[:, None, None]
        sums += on * counts[:, 1 - dy : 1 - dy + side, 1 - dx : 1 - dx + side]
    peak = sums.amax((1, 2), keepdim=True)
    grey_images = (sums.float() * 255.0 / peak.float()).int() + 1
    return torch.where(sums > 0, grey_images, 0)


def draw_patches(recipe: Recipe, keys: Tensor) -> Tensor:
    """``render.draw_patch`` of image keys ``(N,)``, int64."""
    cell = torch.arange(9, device=keys.device)
    on = uniforms(keys[:, None], SLOT_PATCH + cell) < recipe.image.cell_probability
    patches = (on.long() << cell).sum(1)
    return torch.where(patches > 0, patches, 1 << integers(keys, SLOT_PATCH + 9, 9))


def render(recipe: Recipe, table: CodeTable, classes: Tensor, keys: Tensor) -> Tensor:
    """``render.render`` of classes ``(N,)`` and image keys ``(N,)``: ``(N, render_side, render_side)``, int32."""
    parts = []
    at_once = max(1, _POINTS_AT_ONCE // recipe.points)
    for some_classes, some_keys in zip(classes.split(at_once), keys.split(at_once), strict=True):
        sizes = table.sizes[some_classes]
        maps = jitter_codes(table.maps[some_classes], sizes, recipe, some_keys)
        points = take_walks(maps, sizes, recipe.points, subkeys(some_keys, SLOT_WALK))
        patches = draw_patches(recipe, some_keys)
        parts.append(stamp(count_hits(points, recipe.render_side), patches))
    return torch.cat(parts)
