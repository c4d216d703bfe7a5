"""Which classes many pairs show, and which image of each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.rng import integers, make_keys, subkeys, uniforms
from fps_pretrain.fractals.compose.choose import epoch_order
from fps_pretrain.fractals.compose.slots import (
    SLOT_CHOICE,
    SLOT_COUNT,
    SLOT_IMAGE,
    SLOT_OBJECTS,
    SLOT_OTHERS,
    SLOT_SHIFTS,
    SLOT_VIEWS,
)
from fps_pretrain.fractals.recipe import RENDERS_SHARED, Recipe
from fps_pretrain.fractals.rng import IMAGE_STREAM, PAIR_STREAM


class Objects(NamedTuple):
    """What B pairs show: V views of each, at most K objects in a view. Keys are int64.

    Attributes:
        classes: ``(B, K)``, int64.
        present: ``(B, K)``, bool, whether the pair has an object of this number.
        view_keys: ``(V, B)``, the views' keys.
        keys: ``(V, B, K)``, the objects' keys.
        images: ``(V, B, K)``, the keys of their images.
        shifts: ``(B, K)``, float64, the hue shifts where both views share them.
    """

    classes: Tensor
    present: Tensor
    view_keys: Tensor
    keys: Tensor
    images: Tensor
    shifts: Tensor


def _choose_positions(recipe: Recipe, keys: Tensor, requested: Tensor, choices: int) -> Tensor:
    """The requested position ``(B,)`` and different others below ``choices``: ``(B, K)``, int64."""
    positions = requested[:, None]
    for k in range(1, recipe.max_objects):
        pick = integers(keys, SLOT_OTHERS + k, choices - k)
        for taken in positions.sort(dim=1).values.unbind(1):  # skip what is taken
            pick = pick + (pick >= taken)
        positions = torch.cat([positions, pick[:, None]], dim=1)
    return positions


def _pool_image_keys(
    recipe: Recipe, seed: int, epoch: int, start: Tensor, positions: Tensor, object_keys: Tensor
) -> Tensor:
    """The keys of the images that a block shares; ``start (B,)`` is the first pair of each pair's block."""
    images = (1 + (recipe.pool - 1 - positions) // recipe.num_classes).clamp(max=recipe.pool_images)
    choice = integers(object_keys, SLOT_CHOICE, images)
    requesting_pair = start[:, None] + positions + choice * recipe.num_classes
    return make_keys(seed, IMAGE_STREAM, epoch, requesting_pair)


def choose_objects(recipe: Recipe, seed: int, epoch: int, index: Tensor) -> Objects:
    """``compose.choose.choose_classes`` and ``image_key`` for many pairs.

    Args:
        recipe: what pairs look like.
        seed: the seed of the pairs.
        epoch: the epoch, from 0.
        index: ``(B,)``, int64, the pairs within the epoch.
    """
    offset, stride = epoch_order(seed, epoch, recipe.num_classes)
    keys = make_keys(seed, PAIR_STREAM, epoch, index)
    count = recipe.min_objects + integers(keys, SLOT_COUNT, recipe.max_objects - recipe.min_objects + 1)
    number = torch.arange(recipe.max_objects, device=index.device)
    view = torch.arange(recipe.composed_views, device=index.device)
    view_keys = subkeys(keys, SLOT_VIEWS + view[:, None])
    object_keys = subkeys(view_keys[:, :, None], SLOT_OBJECTS + number)
    if recipe.pool:
        start = index // recipe.pool * recipe.pool
        requested = (index - start) % recipe.num_classes
        positions = _choose_positions(recipe, keys, requested, min(recipe.pool, recipe.num_classes))
        classes = (offset + ((start[:, None] + positions) % recipe.num_classes) * stride) % recipe.num_classes
        image_keys = _pool_image_keys(recipe, seed, epoch, start, positions, object_keys)
    else:
        requested = (offset + (index % recipe.num_classes) * stride) % recipe.num_classes
        classes = _choose_positions(recipe, keys, requested, recipe.num_classes)
        image_keys = subkeys(object_keys, SLOT_IMAGE)
        if recipe.renders == RENDERS_SHARED:
            block = index // recipe.num_classes * recipe.num_classes
            shared = make_keys(seed, IMAGE_STREAM, epoch, block[:, None] + classes)
            image_keys = shared.expand(recipe.composed_views, -1, -1)
    shifts = uniforms(keys[:, None], SLOT_SHIFTS + number, 0.0, recipe.image.hue_range)
    return Objects(classes, number < count[:, None], view_keys, object_keys, image_keys, shifts)
