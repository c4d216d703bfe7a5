"""Which classes a pair shows, and which image of each.

The authors' release draws images from a pool that changes as it goes. Here a pair depends on its key alone. By default
every object of every view has an image of its own, and the other classes of a pair are uniform over all classes. With
``Recipe.renders`` "shared" a class has one image for all pairs of a block of ``num_classes`` pairs, the number in which
every class is requested once. With ``Recipe.pool`` the pool is a function of the key, too: see ``choose_classes``.
"""

from __future__ import annotations

import math

import numpy as np

from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose.scratch import Scratch
from fps_pretrain.fractals.compose.slots import SLOT_CHOICE, SLOT_COUNT, SLOT_IMAGE, SLOT_OTHERS
from fps_pretrain.fractals.recipe import RENDERS_SHARED, Recipe
from fps_pretrain.fractals.rng import EPOCH_STREAM, IMAGE_STREAM, integer, make_key, subkey


@kernel()
def epoch_order(seed: int, epoch: int, num_classes: int) -> tuple[int, int]:
    """The order of the classes in an epoch: pair i requests class ``(offset + i x stride) mod num_classes``.

    Returns:
        Offset and stride. The stride shares no factor with ``num_classes``, so every class is requested equally often.
    """
    key = make_key(seed, EPOCH_STREAM, epoch, 0)
    offset = integer(key, 0, num_classes)
    stride = 1 + integer(key, 1, num_classes)
    while math.gcd(stride, num_classes) != 1:
        stride += 1
    return offset, stride


@kernel()
def choose_classes(
    recipe: Recipe, order: tuple[int, int], index: int, key: np.uint64, pair: int, scratch: Scratch
) -> int:
    """Choose the classes of a pair: the requested one first, then different others.

    Without a pool the others are uniform over all classes. With a pool the epoch is divided into blocks of
    ``recipe.pool`` pairs, and the others are uniform over the classes that the pairs of the same block request. Each
    pair of a block adds one image of the class it requests, and all pairs of the block share these images. At 32 px an
    image is then used about four times, as in the authors' release, whose pool holds the 1,024 classes rendered last.

    Args:
        recipe: what pairs look like.
        order: of the epoch, from ``epoch_order``.
        index: the pair within the epoch.
        key: the pair's key.
        pair: the pair's number in ``scratch``.
        scratch: output: row ``pair`` of ``classes`` and ``positions``.

    Returns:
        The number of objects.
    """
    offset, stride = order
    count = recipe.min_objects + integer(key, SLOT_COUNT, recipe.max_objects - recipe.min_objects + 1)
    if recipe.pool:
        choices = min(recipe.pool, recipe.num_classes)
        start = index // recipe.pool * recipe.pool
        requested = (index - start) % recipe.num_classes
    else:
        choices = recipe.num_classes
        start = 0
        requested = (offset + (index % choices) * stride) % choices
    taken = scratch.taken  # sorted
    for k in range(count):
        pick = requested
        if k > 0:
            pick = integer(key, SLOT_OTHERS + k, choices - k)
            for j in range(k):  # skip what is taken
                pick += pick >= taken[j]
        at = k
        while at > 0 and taken[at - 1] > pick:
            taken[at] = taken[at - 1]
            at -= 1
        taken[at] = pick
        scratch.positions[pair, k] = pick
        if recipe.pool:
            scratch.classes[pair, k] = (offset + ((start + pick) % recipe.num_classes) * stride) % recipe.num_classes
        else:
            scratch.classes[pair, k] = pick
    return count


@kernel()
def image_key(recipe: Recipe, seed: int, epoch: int, index: int, position: int, object_key: np.uint64) -> np.uint64:
    """The key of an object's image: of its own, or shared by all pairs of a block.

    Args:
        recipe: what pairs look like.
        seed: the seed of the pairs.
        epoch: the epoch.
        index: the pair within the epoch.
        position: of the object's class, from ``choose_classes``: with a pool its position in the block, else the class.
        object_key: the object's key.
    """
    if recipe.pool == 0:
        if recipe.renders == RENDERS_SHARED:
            return make_key(seed, IMAGE_STREAM, epoch, index // recipe.num_classes * recipe.num_classes + position)
        return subkey(object_key, SLOT_IMAGE)
    images = min(recipe.pool_images, 1 + (recipe.pool - 1 - position) // recipe.num_classes)
    choice = integer(object_key, SLOT_CHOICE, images)
    requesting_pair = index // recipe.pool * recipe.pool + position + choice * recipe.num_classes
    return make_key(seed, IMAGE_STREAM, epoch, requesting_pair)
