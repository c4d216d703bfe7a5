"""Fractal pairs as composed, many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.choose import Objects, choose_objects
from fps_pretrain.fractals.batched.codes import CodeTable
from fps_pretrain.fractals.batched.colours import colour, draw_colours, pack
from fps_pretrain.fractals.batched.paste import blur3, paste
from fps_pretrain.fractals.batched.render import render
from fps_pretrain.fractals.batched.rng import integers, make_keys, subkeys, uniforms
from fps_pretrain.fractals.batched.texture import textures
from fps_pretrain.fractals.compose.scratch import views_share_images
from fps_pretrain.fractals.compose.slots import (
    SLOT_BLUR,
    SLOT_COLOUR,
    SLOT_LEFT,
    SLOT_ORIENTATION,
    SLOT_SIDE,
    SLOT_SIGMA,
    SLOT_TEXTURE,
    SLOT_TEXTURE_COLOUR,
    SLOT_TOP,
    SLOT_VIEWS,
)
from fps_pretrain.fractals.recipe import COLOUR_JITTER, Recipe
from fps_pretrain.fractals.recipe_numbers import ComposeNumbers
from fps_pretrain.fractals.rng import PAIR_STREAM


def _render_objects(recipe: Recipe, table: CodeTable, objects: Objects, present: Tensor) -> tuple[Tensor, Tensor]:
    """Render and colour the objects of all views.

    Args:
        recipe: what pairs look like.
        table: the codes.
        objects: the objects, on the device.
        present: ``objects.present`` on the host, so that only what is shown is rendered without waiting for the device.

    Returns:
        The images ``(N, s, s)``, int64, spread colours, and the number of each object's image, ``(V x B x K,)``.
    """
    device, views = table.maps.device, recipe.composed_views
    shown = present.expand(views, -1, -1).reshape(-1)
    to_colour = shown.nonzero()[:, 0]
    numbers = torch.zeros(shown.numel(), dtype=torch.int64)
    numbers[to_colour] = torch.arange(len(to_colour))
    rendered_views = 1 if views_share_images(recipe) else views
    to_render = to_colour[: len(to_colour) // views * rendered_views]  # the first view's objects come first
    to_colour, to_render, numbers = (t.to(device, non_blocking=True) for t in (to_colour, to_render, numbers))

    classes = objects.classes.expand(views, -1, -1).reshape(-1)
    grey_images = render(recipe, table, classes[to_render], objects.images.reshape(-1)[to_render])
    grey_images = grey_images.repeat(views // rendered_views, 1, 1)
    shifts, saturation, value = draw_colours(recipe, objects.keys.reshape(-1), SLOT_COLOUR)
    if recipe.colour == COLOUR_JITTER:
        shifts = objects.shifts.expand(views, -1, -1).reshape(-1)
    return colour(grey_images, shifts[to_colour], saturation[to_colour], value[to_colour]), numbers


def _placements(numbers: ComposeNumbers, size: int, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sides, tops, lefts and orientations of objects of ``keys``, as ``compose.pairs.paste_object`` draws them."""
    sides = (uniforms(keys, SLOT_SIDE, numbers.scale_low, numbers.scale_high) * size).long().clamp(min=1)
    overhangs = (sides.double() * numbers.overhang).long()
    places = size - sides + 2 * overhangs
    lefts, tops = integers(keys, SLOT_LEFT, places) - overhangs, integers(keys, SLOT_TOP, places) - overhangs
    turn = torch.arange(3, device=keys.device)
    turns = uniforms(keys[:, None], SLOT_ORIENTATION + turn) < numbers.turn_probability
    return sides, tops, lefts, (turns.long() << turn).sum(1)


def _backgrounds(recipe: Recipe, view_keys: Tensor) -> Tensor:
    """The views ``(M, size, size)`` before any object is pasted."""
    if not recipe.background:
        return torch.zeros(len(view_keys), recipe.size, recipe.size, dtype=torch.int64, device=view_keys.device)
    texture = textures(recipe.size, subkeys(view_keys, SLOT_TEXTURE))
    return pack(colour(1 + (texture * 255.0).int(), *draw_colours(recipe, view_keys, SLOT_TEXTURE_COLOUR)))


def compose(recipe: Recipe, table: CodeTable, seed: int, epoch: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """``compose.pairs.compose_pairs`` for any pairs of an epoch.

    Args:
        recipe: what pairs look like.
        table: the codes, on the device to work on.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        index: ``(B,)``, int64, the pairs within the epoch, on the host.

    Returns:
        The views ``(2, B, size, size)``, int64, packed colours, and their keys ``(2, B)``, int64.
    """
    device, size, count = table.maps.device, recipe.size, len(index)
    present = choose_objects(recipe, seed, epoch, index).present
    index = index.to(device, non_blocking=True)
    objects = choose_objects(recipe, seed, epoch, index)
    images, image_numbers = _render_objects(recipe, table, objects, present)

    views = recipe.composed_views
    view_keys = objects.view_keys.reshape(-1)
    canvas = _backgrounds(recipe, view_keys)
    placed = (image_numbers, *_placements(recipe.compose, size, objects.keys.reshape(-1)))
    for k in range(recipe.max_objects):
        image, side, top, left, turn = (t.view(views * count, recipe.max_objects)[:, k] for t in placed)
        pasted = paste(images, image, side, top, left, turn, size)
        there = objects.present[:, k].repeat(views)[:, None, None]
        canvas = torch.where(there & (pasted != 0), pasted, canvas)
    numbers = recipe.compose
    blurred = blur3(canvas, uniforms(view_keys, SLOT_SIGMA, numbers.blur_low, numbers.blur_high))
    canvas = torch.where((uniforms(view_keys, SLOT_BLUR) < numbers.blur_probability)[:, None, None], blurred, canvas)
    both_views = canvas.view(views, count, size, size).expand(2, -1, -1, -1)
    number = torch.arange(2, device=device)[:, None]
    return both_views, subkeys(make_keys(seed, PAIR_STREAM, epoch, index), SLOT_VIEWS + number)
