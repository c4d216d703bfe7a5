"""A fractal pair: two images composed of the same classes of fractals (Chen et al., ICLR 2023, section 4).

Both views hold the same set of classes; each object's image, flips, colour, size and place differ between them.
Two departures from the released code: every image is rendered for its pair instead of taken from a pool of earlier
ones, so that a pair depends on its key alone; and the other classes of a pair are uniform over all classes instead of
over the at most 1,024 that have images in the pool.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fps_pretrain.fractals.codes import class_code
from fps_pretrain.fractals.recipe import COLOUR_JITTER, MAX_OBJECTS, Recipe
from fps_pretrain.fractals.render import colour_table, diamond_square, render
from fps_pretrain.fractals.rng import EPOCH_STREAM, PAIR_STREAM, chance, integer, stream, uniform_in


@njit(cache=True, nogil=True)
def requested_class(seed: int, epoch: int, index: int, num_classes: int) -> int:
    """The class pair ``index`` must show: over an epoch every class comes equally often, in an order of its own."""
    state = stream(seed, EPOCH_STREAM, epoch, 0)
    offset = integer(state, num_classes)
    stride = 1 + integer(state, num_classes)
    while math.gcd(stride, num_classes) != 1:
        stride += 1
    return (offset + (index % num_classes) * stride) % num_classes


@njit(cache=True, nogil=True)
def choose_classes(recipe: Recipe, requested: int, classes: np.ndarray, state: np.ndarray) -> int:
    """Fill ``classes`` with the requested class and different others, uniform over the rest; returns how many."""
    count = recipe.min_objects + integer(state, recipe.max_objects - recipe.min_objects + 1)
    classes[0] = requested
    for k in range(1, count):
        fresh = False
        while not fresh:
            classes[k] = integer(state, recipe.num_classes)
            fresh = True
            for j in range(k):
                fresh = fresh and classes[j] != classes[k]
    return count


@njit(cache=True, nogil=True)
def paste(
    grey: np.ndarray, table: np.ndarray, side: int, top: int, left: int, orientation: int, view: np.ndarray
) -> None:
    """Colour a grey image, resize it bilinearly and paste its non-black pixels.

    Args:
        grey: ``(s, s)``, float32 in [0, 1].
        table: ``(256, 3)``, the colour of each grey level, 0 .. 255.
        side: the object's side in the view, in pixels.
        top: row of its upper left corner; it may overhang.
        left: column of its upper left corner.
        orientation: bits 0, 1, 2 transpose, flip vertically, flip horizontally.
        view: ``(size, size, 3)``, uint8, changed in place.
    """
    source = grey.shape[0]
    size = view.shape[0]
    scale = source / side
    transpose, flip_y, flip_x = orientation & 1, orientation & 2, orientation & 4
    for y in range(max(0, -top), min(side, size - top)):
        sy = min(max((y + 0.5) * scale - 0.5, 0.0), source - 1.0)
        y0 = int(sy)
        y1 = min(y0 + 1, source - 1)
        wy = sy - y0
        for x in range(max(0, -left), min(side, size - left)):
            sx = min(max((x + 0.5) * scale - 0.5, 0.0), source - 1.0)
            x0 = int(sx)
            x1 = min(x0 + 1, source - 1)
            wx = sx - x0
            r, g, b = 0.0, 0.0, 0.0
            for corner in range(4):
                row = y1 if corner & 2 else y0
                column = x1 if corner & 1 else x0
                if flip_y:
                    row = source - 1 - row
                if flip_x:
                    column = source - 1 - column
                level = grey[column, row] if transpose else grey[row, column]
                if level > 0.0:
                    weight = (wy if corner & 2 else 1.0 - wy) * (wx if corner & 1 else 1.0 - wx)
                    colour = int(255.0 * level)
                    r += weight * table[colour, 0]
                    g += weight * table[colour, 1]
                    b += weight * table[colour, 2]
            if r >= 0.5 or g >= 0.5 or b >= 0.5:
                view[top + y, left + x, 0] = int(r + 0.5)
                view[top + y, left + x, 1] = int(g + 0.5)
                view[top + y, left + x, 2] = int(b + 0.5)


@njit(cache=True, nogil=True)
def blur3(view: np.ndarray, sigma: float) -> None:
    """A 3x3 Gaussian blur in place, ``view (size, size, 3)`` uint8, borders mirrored without repeating the edge."""
    side = math.exp(-0.5 / (sigma * sigma))
    centre = 1.0 / (1.0 + 2.0 * side)
    side *= centre
    size = view.shape[0]
    rows = np.empty((size, size, 3), np.float32)
    for y in range(size):
        for x in range(size):
            left, right = abs(x - 1), size - 2 if x == size - 1 else x + 1
            for c in range(3):
                rows[y, x, c] = centre * view[y, x, c] + side * (view[y, left, c] + view[y, right, c])
    for y in range(size):
        above, below = abs(y - 1), size - 2 if y == size - 1 else y + 1
        for x in range(size):
            for c in range(3):
                view[y, x, c] = int(centre * rows[y, x, c] + side * (rows[above, x, c] + rows[below, x, c]) + 0.5)


@njit(cache=True, nogil=True)
def compose_view(
    recipe: Recipe, seed: int, classes: np.ndarray, count: int, shifts: np.ndarray, view: np.ndarray, state: np.ndarray
) -> None:
    """Compose one view of the given classes, the requested one first (lowest).

    Args:
        recipe: what views look like.
        seed: the seed of the codes.
        classes: class numbers; the first ``count`` are shown.
        count: number of objects.
        shifts: hue shift of each object, used when the colour mode is ``jitter``.
        view: output ``(size, size, 3)``, uint8.
        state: the random stream.
    """
    size = recipe.size
    side = recipe.render_side
    counts = np.empty((side, side), np.int32)
    grey = np.empty((side, side), np.float32)
    table = np.empty((256, 3), np.float32)
    view[:] = 0
    if recipe.background:
        texture = diamond_square(size, state)
        colour_table(uniform_in(state, 0.0, 255.0), state, table)
        for y in range(size):
            for x in range(size):
                for c in range(3):
                    view[y, x, c] = int(table[int(255.0 * texture[y, x]), c])
    for k in range(count):
        render(class_code(seed, classes[k]), recipe.jitter, recipe.points, counts, grey, state)
        orientation = integer(state, 8)
        shift = uniform_in(state, 0.0, 255.0)
        colour_table(shifts[k] if recipe.colour == COLOUR_JITTER else shift, state, table)
        object_side = max(1, int(uniform_in(state, 0.45, 0.75) * size))
        overhang = object_side // 4
        positions = size - (object_side - overhang) + overhang
        left = integer(state, positions) - overhang
        top = integer(state, positions) - overhang
        paste(grey, table, object_side, top, left, orientation, view)
    if chance(state, 0.5):
        blur3(view, uniform_in(state, 0.5, 2.0))


@njit(cache=True, nogil=True)
def compose_pair(recipe: Recipe, seed: int, epoch: int, index: int, views: np.ndarray) -> np.ndarray:
    """Compose the pair of the key ``(seed, epoch, index)``.

    Args:
        recipe: what pairs look like.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        index: the pair within the epoch, from 0.
        views: output ``(2, size, size, 3)``, uint8 RGB.

    Returns:
        The random stream after composing, for whatever is drawn next for this pair.
    """
    state = stream(seed, PAIR_STREAM, epoch, index)
    classes = np.empty(MAX_OBJECTS, np.int64)
    shifts = np.empty(MAX_OBJECTS)
    count = choose_classes(recipe, requested_class(seed, epoch, index, recipe.num_classes), classes, state)
    for k in range(count):
        shifts[k] = uniform_in(state, 0.0, 255.0)
    compose_view(recipe, seed, classes, count, shifts, views[0], state)
    if recipe.composed_views == 2:
        compose_view(recipe, seed, classes, count, shifts, views[1], state)
    else:
        views[1] = views[0]
    return state


def pair_classes(recipe: Recipe, seed: int, epoch: int, index: int) -> list[int]:
    """The classes that both views of a pair show, the requested one first."""
    classes = np.empty(MAX_OBJECTS, np.int64)
    state = stream(seed, PAIR_STREAM, epoch, index)
    count = choose_classes(recipe, requested_class(seed, epoch, index, recipe.num_classes), classes, state)
    return [int(k) for k in classes[:count]]
