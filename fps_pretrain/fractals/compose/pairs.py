"""Fractal pairs as composed: what they show is chosen, rendered, and put together to two views.

Both views show the same classes; each object's image, flips, colour, size and place differ between them.
"""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.codes import SEEDED_CODES, Codes, find_codes
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose.choose import choose_classes, epoch_order, image_key
from fps_pretrain.fractals.compose.colours import draw_colours
from fps_pretrain.fractals.compose.paste import blur3, paste
from fps_pretrain.fractals.compose.scratch import Scratch, empty_scratch
from fps_pretrain.fractals.compose.slots import (
    SLOT_BLUR,
    SLOT_COLOUR,
    SLOT_LEFT,
    SLOT_OBJECTS,
    SLOT_ORIENTATION,
    SLOT_SHIFTS,
    SLOT_SIDE,
    SLOT_SIGMA,
    SLOT_TOP,
    SLOT_VIEWS,
)
from fps_pretrain.fractals.compose.texture import paint_texture
from fps_pretrain.fractals.jitter import jitter_code
from fps_pretrain.fractals.recipe import COLOUR_JITTER, Recipe
from fps_pretrain.fractals.recipe_numbers import ComposeNumbers
from fps_pretrain.fractals.render import render
from fps_pretrain.fractals.rng import PAIR_STREAM, chance, integer, make_key, subkey, uniform_in


@kernel()
def choose_pairs(
    recipe: Recipe,
    codes: Codes,
    seed: int,
    epoch: int,
    order: tuple[int, int],
    first: int,
    count: int,
    scratch: Scratch,
) -> None:
    """Choose the classes of consecutive pairs and find their codes; arguments as of ``compose_pairs``."""
    objects = 0
    for pair in range(count):
        key = make_key(seed, PAIR_STREAM, epoch, first + pair)
        scratch.keys[pair] = key
        scratch.counts[pair] = choose_classes(recipe, order, first + pair, key, pair, scratch)
        for k in range(scratch.counts[pair]):
            scratch.all_classes[objects] = scratch.classes[pair, k]
            objects += 1
    walks, hits = scratch.images.walks, scratch.images.counts
    classes = scratch.all_classes[:objects]
    find_codes(recipe.codes, codes, seed, classes, walks, hits, scratch.maps, scratch.sizes)


@kernel()
def plan_images(recipe: Recipe, seed: int, epoch: int, first: int, count: int, scratch: Scratch) -> int:
    """List the images of pairs whose classes are chosen; an image that both views show is listed once.

    Args:
        recipe: what pairs look like.
        seed: the seed of the pairs.
        epoch: the epoch.
        first: index of the first pair within the epoch.
        count: number of pairs.
        scratch: changed: its ``images`` get keys and codes, its ``image_numbers`` are filled.

    Returns:
        The number of images to render.
    """
    images, numbers = scratch.images, scratch.image_numbers
    used, first_code = 0, 0
    for pair in range(count):
        for view in range(recipe.composed_views):
            view_key = subkey(scratch.keys[pair], SLOT_VIEWS + view)
            for k in range(scratch.counts[pair]):
                object_key = subkey(view_key, SLOT_OBJECTS + k)
                key = image_key(recipe, seed, epoch, first + pair, scratch.positions[pair, k], object_key)
                if view == 1 and images.keys[numbers[pair, 0, k]] == key:
                    numbers[pair, 1, k] = numbers[pair, 0, k]
                    continue
                size = scratch.sizes[first_code + k]
                images.keys[used], images.sizes[used] = key, size
                code = scratch.maps[first_code + k]
                jitter_code(code, size, recipe.jitter, recipe.image, key, images.codes[used])
                numbers[pair, view, k] = used
                used += 1
        first_code += scratch.counts[pair]
    return used


@kernel()
def paste_object(
    numbers: ComposeNumbers, key: np.uint64, grey_image: np.ndarray, scratch: Scratch, view: np.ndarray
) -> None:
    """Paste an object at a random place, with a random side and orientation.

    Args:
        numbers: the recipe's.
        key: the object's key.
        grey_image: flat, uint16, see ``render``.
        scratch: its ``table`` holds the object's colours.
        view: ``(size, size)``, uint32, packed colours, changed in place.
    """
    size = view.shape[0]
    side = max(1, int(uniform_in(key, SLOT_SIDE, numbers.scale_low, numbers.scale_high) * size))
    overhang = int(side * numbers.overhang)
    places = size - side + 2 * overhang
    left = integer(key, SLOT_LEFT, places) - overhang
    top = integer(key, SLOT_TOP, places) - overhang
    orientation = 0
    for turn in range(3):
        if chance(key, SLOT_ORIENTATION + turn, numbers.turn_probability):
            orientation |= 1 << turn
    paste(grey_image, side, top, left, orientation, scratch, view)


@kernel()
def compose_view(recipe: Recipe, pair: int, number: int, scratch: Scratch, view: np.ndarray) -> None:
    """Compose one view of a pair whose images are rendered. Later objects cover earlier ones.

    Args:
        recipe: what views look like.
        pair: the pair's number in ``scratch``.
        number: 0 or 1, which view of the pair.
        scratch: holds the images.
        view: output ``(size, size)``, uint32, packed colours.
    """
    pair_key = scratch.keys[pair]
    key = subkey(pair_key, SLOT_VIEWS + number)
    for y in range(recipe.size):
        view[y, :] = np.uint32(0)
    if recipe.background:
        paint_texture(recipe.image, key, scratch, view)
    for k in range(scratch.counts[pair]):
        own = subkey(key, SLOT_OBJECTS + k)
        shift_key, shift_slot = (pair_key, SLOT_SHIFTS + k) if recipe.colour == COLOUR_JITTER else (own, SLOT_COLOUR)
        draw_colours(recipe.image, shift_key, shift_slot, own, SLOT_COLOUR, scratch.table)
        grey_image = scratch.images.grey_images[scratch.image_numbers[pair, number, k]]
        paste_object(recipe.compose, own, grey_image, scratch, view)
    if chance(key, SLOT_BLUR, recipe.compose.blur_probability):
        sigma = uniform_in(key, SLOT_SIGMA, recipe.compose.blur_low, recipe.compose.blur_high)
        blur3(view, sigma, scratch.planes)


@kernel()
def compose_pairs(
    recipe: Recipe,
    codes: Codes,
    seed: int,
    epoch: int,
    order: tuple[int, int],
    first: int,
    count: int,
    scratch: Scratch,
    views: np.ndarray,
) -> None:
    """Compose consecutive pairs of the keys ``(seed, epoch, index)``.

    Args:
        recipe: what pairs look like.
        codes: codes of a file, or ``SEEDED_CODES``.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        order: of the epoch, from ``choose.epoch_order``.
        first: index of the first pair within the epoch, from 0.
        count: number of pairs, at most ``scratch.pairs``.
        scratch: from ``empty_scratch``; afterwards its ``keys`` are the pairs' keys.
        views: output ``(2, count, size, size)``, uint32, packed colours.
    """
    choose_pairs(recipe, codes, seed, epoch, order, first, count, scratch)
    render(recipe, plan_images(recipe, seed, epoch, first, count, scratch), scratch.images)
    for pair in range(count):
        for number in range(recipe.composed_views):
            compose_view(recipe, pair, number, scratch, views[number, pair])
        if recipe.composed_views == 1:
            for y in range(recipe.size):
                for x in range(recipe.size):
                    views[1, pair, y, x] = views[0, pair, y, x]


def composed(
    recipe: Recipe, seed: int, epoch: int, index: int, codes: Codes = SEEDED_CODES
) -> tuple[np.ndarray, np.uint64, list[int]]:
    """Compose one pair.

    Args:
        recipe: what pairs look like.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        index: the pair within the epoch, from 0.
        codes: codes of a file, or ``SEEDED_CODES``.

    Returns:
        The views ``(2, size, size)``, uint32, packed colours; the pair's key; its classes, the requested one first.
    """
    scratch = empty_scratch(recipe)
    views = np.empty((2, 1, recipe.size, recipe.size), np.uint32)
    order = epoch_order(seed, epoch, recipe.num_classes)
    compose_pairs(recipe, codes, seed, epoch, order, index, 1, scratch, views)
    return views[:, 0], scratch.keys[0], [int(k) for k in scratch.classes[0, : scratch.counts[0]]]
