"""The memory in which pairs are composed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.chaos_game import LANES, MAX_SINGLE_WALK
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe import RENDERS_SHARED, Recipe
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS
from fps_pretrain.fractals.render import Images, empty_images


class Scratch(NamedTuple):
    """Scratch memory of one thread for some pairs that are composed together.

    Attributes:
        pairs: number of pairs.
        classes: ``(pairs, objects)``, int64, the classes of each pair.
        positions: ``(pairs, objects)``, int64: with a pool, the position in its block of the first pair that requests
            the class; without, the class.
        taken: ``(objects,)``, int64, the positions chosen so far for one pair, in rising order.
        all_classes: ``(pairs x objects,)``, int64, the classes of all pairs, one after the other.
        maps: ``(pairs x objects, 4, 2, 3)``, float64, their codes.
        sizes: ``(pairs x objects,)``, int64, their numbers of maps.
        counts: ``(pairs,)``, int64, the number of objects of each pair.
        keys: ``(pairs,)``, uint64, the pairs' keys.
        image_numbers: ``(pairs, 2, objects)``, int64, the number in ``images`` of each object's image.
        images: the images to render.
        table: ``(257,)``, uint64, the colours of one object.
        offsets: ``(4, size)``, uint32, the source pixels of an object's pixels.
        weights: ``(size,)``, int32, their weights.
        planes: ``(2, size^2)``, float32, a channel before the blur and between its two passes.
        bits: uint32, the random bits of a background.
        texture: float32, a background; of one element if there is none.
    """

    pairs: int
    classes: np.ndarray
    positions: np.ndarray
    taken: np.ndarray
    all_classes: np.ndarray
    maps: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    image_numbers: np.ndarray
    images: Images
    table: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    planes: np.ndarray
    bits: np.ndarray
    texture: np.ndarray


@kernel()
def views_share_images(recipe: Recipe) -> bool:
    """Whether both views of a pair always show the same image of a class, so that it is rendered once."""
    return bool(recipe.renders == RENDERS_SHARED or 0 < recipe.pool <= recipe.num_classes)


@compiled()
def empty_scratch(recipe: Recipe) -> Scratch:
    """Scratch memory for as many pairs of a recipe as fill the lanes of the chaos game."""
    objects, size = recipe.max_objects, recipe.size
    extent = 2 ** math.ceil(math.log2(size - 1)) + 1 if recipe.background else 1
    images = objects * (1 if views_share_images(recipe) else recipe.composed_views)
    pairs = max(1, LANES // images) if recipe.points <= MAX_SINGLE_WALK else 1
    return Scratch(
        pairs,
        np.empty((pairs, objects), np.int64),
        np.empty((pairs, objects), np.int64),
        np.empty(objects, np.int64),
        np.empty(pairs * objects, np.int64),
        np.empty((pairs * objects, MAX_MAPS, 2, 3)),
        np.empty(pairs * objects, np.int64),
        np.empty(pairs, np.int64),
        np.empty(pairs, np.uint64),
        np.empty((pairs, 2, objects), np.int64),
        empty_images(recipe, pairs * images),
        np.empty(257, np.uint64),
        np.empty((4, size), np.uint32),
        np.empty(size, np.int32),
        np.empty((2, size * size), np.float32),
        np.empty(extent * extent, np.uint32),
        np.empty((extent, extent), np.float32),
    )
