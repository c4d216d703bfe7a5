"""A fractal pair: two images composed of the same classes of fractals (Chen et al., ICLR 2023, section 4).

Both views hold the same set of classes; each object's image, flips, colour, size and place differ between them.

The released code draws images from a pool that grows and forgets as it goes. Here a pair depends on its key alone. By
default every object of every view is an image of its own, rendered for it, and the other classes of a pair are uniform
over all classes. With ``Recipe.pool`` the pool is a function of the key, too: see ``choose_classes``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.chaos_game import LANES, LONGEST_CHAIN
from fps_pretrain.fractals.codes import class_codes, copy_code, jitter_code
from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe import COLOUR_JITTER, MAX_MAPS, ImageNumbers, Recipe
from fps_pretrain.fractals.render import Images, colour_table, diamond_square, empty_images, render
from fps_pretrain.fractals.rng import (
    EPOCH_STREAM,
    IMAGE_STREAM,
    PAIR_STREAM,
    chance,
    integer,
    make_key,
    subkey,
    uniform_in,
)

# Slots of a pair's key
SLOT_COUNT, SLOT_OTHERS, SLOT_SHIFTS, SLOT_VIEWS = 0, 1, 32, 64
# Slots of a view's key
SLOT_BLUR, SLOT_SIGMA, SLOT_TEXTURE, SLOT_TEXTURE_COLOUR, SLOT_AUGMENT, SLOT_OBJECTS = 0, 1, 2, 3, 8, 16
# Slots of an object's key
SLOT_CHOICE, SLOT_COLOUR, SLOT_ORIENTATION, SLOT_SIDE, SLOT_LEFT, SLOT_TOP, SLOT_IMAGE = 0, 1, 4, 7, 8, 9, 10


class Codes(NamedTuple):
    """Codes from a file instead of from the seed; empty arrays stand for the seed's.

    Attributes:
        maps: ``(classes, 4, 2, 3)``, float64.
        sizes: number of maps of each, int64.
    """

    maps: np.ndarray
    sizes: np.ndarray


SEEDED_CODES = Codes(np.empty((0, MAX_MAPS, 2, 3)), np.empty(0, np.int64))


class Scratch(NamedTuple):
    """What one thread needs to compose some pairs together, made once a batch.

    Attributes:
        pairs: how many.
        classes: ``(pairs, objects)``, the classes of each.
        places: ``(pairs, objects)``, their places in the pool.
        taken: ``(objects,)``, those of the pair at hand in rising order.
        wanted: ``(pairs x objects,)``, the classes of all pairs one after the other.
        maps: ``(pairs x objects, 4, 2, 3)``, their codes.
        sizes: ``(pairs x objects,)``, their numbers of maps.
        counts: ``(pairs,)``, numbers of objects.
        keys: ``(pairs,)``, uint64.
        shown: ``(pairs, 2, objects)``, which of ``images`` each object is.
        images: for rendering.
        table: ``(257,)``, uint64, colours of one object.
        offsets: ``(4, size)``, uint32, and
        weights: ``(size,)``, int32, where an object's pixels come from.
        planes: ``(2, size^2)``, float32, one channel before and between the two passes of the blur.
        bits: uint32, and
        texture: float32, for a background, where there is one.
    """

    pairs: int
    classes: np.ndarray
    places: np.ndarray
    taken: np.ndarray
    wanted: np.ndarray
    maps: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    shown: np.ndarray
    images: Images
    table: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    planes: np.ndarray
    bits: np.ndarray
    texture: np.ndarray


@compiled()
def empty_scratch(recipe: Recipe) -> Scratch:
    """Scratch for as many pairs of a recipe as fill the lanes of the chaos game."""
    objects, size = recipe.max_objects, recipe.size
    extent = 2 ** math.ceil(math.log2(size - 1)) + 1 if recipe.background else 1
    shared = 0 < recipe.pool <= recipe.num_classes  # both views show the same images
    images = objects * (1 if shared else recipe.composed_views)
    pairs = max(1, LANES // images) if recipe.points <= LONGEST_CHAIN else 1
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


@kernel()
def epoch_order(seed: int, epoch: int, num_classes: int) -> tuple[int, int]:
    """The order of the classes in an epoch: pair i must show class ``(offset + i x stride) mod num_classes``.

    Returns:
        offset and stride; the stride shares no factor with ``num_classes``, so that every class comes equally often.
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
    """Choose the classes of a pair: the requested one, then different others; returns how many.

    Without a pool the others are uniform over all classes. With one, the epoch is cut into blocks of ``recipe.pool``
    pairs and the others are uniform over the classes requested in the pair's own block. An image belongs to the pair
    that requests its class and is shown wherever that class is shown in the block. So an image is used about four
    times at 32 px, as it is in the released code, whose pool holds the 1,024 classes rendered last.

    Args:
        recipe: what pairs look like.
        order: of the epoch, from ``epoch_order``.
        index: the pair within the epoch.
        key: the pair's key.
        pair: the pair's number in ``scratch``.
        scratch: its ``classes`` and ``places`` are filled; a place counts from the start of the block.
    """
    offset, stride = order
    count = recipe.min_objects + integer(key, SLOT_COUNT, recipe.max_objects - recipe.min_objects + 1)
    if recipe.pool:
        choices = min(recipe.pool, recipe.num_classes)
        start = index // recipe.pool * recipe.pool
        own = (index - start) % recipe.num_classes
    else:
        choices = recipe.num_classes
        start = 0
        own = (offset + (index % choices) * stride) % choices
    taken = scratch.taken
    for k in range(count):
        pick = own
        if k > 0:
            pick = integer(key, SLOT_OTHERS + k, choices - k)
            for j in range(k):
                pick += pick >= taken[j]
        at = k
        while at > 0 and taken[at - 1] > pick:
            taken[at] = taken[at - 1]
            at -= 1
        taken[at] = pick
        scratch.places[pair, k] = pick
        if recipe.pool:
            scratch.classes[pair, k] = (offset + ((start + pick) % recipe.num_classes) * stride) % recipe.num_classes
        else:
            scratch.classes[pair, k] = pick
    return count


@kernel()
def image_key(recipe: Recipe, seed: int, epoch: int, index: int, place: int, object_key: np.uint64) -> np.uint64:
    """The key of an object's image: its own, or, with a pool, that of one of the images its class has in the block."""
    if recipe.pool == 0:
        return subkey(object_key, SLOT_IMAGE)
    images = min(recipe.pool_images, 1 + (recipe.pool - 1 - place) // recipe.num_classes)
    owner = index // recipe.pool * recipe.pool + place + integer(object_key, SLOT_CHOICE, images) * recipe.num_classes
    return make_key(seed, IMAGE_STREAM, epoch, owner)


@kernel()
def paste(
    levels: np.ndarray, side: int, top: int, left: int, orientation: int, scratch: Scratch, view: np.ndarray
) -> None:
    """Colour a grey image, resize it bilinearly and paste its non-black pixels.

    Weights are in units of 2^-13: times 8-bit colours they fill 21 bits, so one product serves three channels.

    Args:
        levels: grey levels as ``render.stamp`` writes them, flat, ``s^2``.
        side: the object's side in the view, in pixels.
        top: row of its upper left corner; it may overhang.
        left: column of its upper left corner.
        orientation: bits 0, 1, 2 transpose, flip vertically, flip horizontally.
        scratch: its ``table`` gives the colours.
        view: ``(size, size)``, uint32, changed in place.
    """
    table, offsets, weights = scratch.table, scratch.offsets, scratch.weights
    source = int(math.sqrt(levels.size) + 0.5)
    size = view.shape[0]
    scale = np.float32(source) / np.float32(side)
    last = np.float32(source - 1)
    # A source pixel is rows[y] + columns[x]: the orientation is in these offsets.
    row_step, column_step = (1, source) if orientation & 1 else (source, 1)
    near_row, far_row, near_column, far_column = offsets[0], offsets[1], offsets[2], offsets[3]
    for i in range(side):
        s = min(max((np.float32(i) + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0.0)), last)
        near = int(s)
        far = min(near + 1, source - 1)
        weights[i] = np.int32((s - np.float32(near)) * np.float32(8192.0) + np.float32(0.5))
        near_row[i] = row_step * (source - 1 - near if orientation & 2 else near)
        far_row[i] = row_step * (source - 1 - far if orientation & 2 else far)
        near_column[i] = column_step * (source - 1 - near if orientation & 4 else near)
        far_column[i] = column_step * (source - 1 - far if orientation & 4 else far)
    rounding = np.uint64(4096 | (4096 << 21) | (4096 << 42))
    skip = max(0, -left)
    columns = max(0, min(side, size - left) - skip)
    nears, fars, column_weights = near_column[skip:], far_column[skip:], weights[skip:]
    for y in range(max(0, -top), min(side, size - top)):
        upper, lower = levels[near_row[y] :], levels[far_row[y] :]
        wy = np.int64(weights[y])
        out = view[top + y, left + skip :]
        for x in range(columns):
            near, far, wx = nears[x], fars[x], np.int64(column_weights[x])
            wd = (wy * wx + 4096) >> 13
            wc = wy - wd
            wb = wx - wd
            wa = 8192 - wx - wc
            colour = np.uint64(wa) * table[upper[near]] + np.uint64(wb) * table[upper[far]]
            colour += np.uint64(wc) * table[lower[near]] + np.uint64(wd) * table[lower[far]] + rounding
            packed = np.uint32(
                ((colour >> np.uint64(13)) & np.uint64(255))
                | ((colour >> np.uint64(26)) & np.uint64(255 << 8))
                | ((colour >> np.uint64(39)) & np.uint64(255 << 16))
            )
            out[x] = packed if packed else out[x]


@kernel()
def blur3(view: np.ndarray, sigma: float, planes: np.ndarray) -> None:
    """A 3x3 Gaussian blur in place, borders mirrored without repeating the edge.

    Both passes run over a whole channel at once; what they make of the borders is then written over.

    Args:
        view: ``(size, size)``, uint32, packed colours.
        sigma: of the Gaussian, in pixels.
        planes: scratch, ``(2, size^2)``, float32.
    """
    side = math.exp(-0.5 / (sigma * sigma))
    w0, w1 = np.float32(1.0 / (1.0 + 2.0 * side)), np.float32(side / (1.0 + 2.0 * side))
    half, two, byte = np.float32(0.5), np.float32(2.0), np.uint32(255)
    size = view.shape[0]
    pixels, channel, rows = view.reshape(-1), planes[0], planes[1]
    inside, middle = size * size - 2, size * (size - 2)
    before, here, after, out = channel[:inside], channel[1:], channel[2:], rows[1 : 1 + inside]
    upper, centre, lower = rows[:middle], rows[size:], rows[2 * size :]
    bottom, above_bottom = rows[middle + size :], rows[middle:]
    inner_pixels, bottom_pixels = pixels[size:], pixels[middle + size :]
    # NumPy's shifts keep 32 bits where Python's operators would widen to 64, and vectorise better.
    for c in range(3):
        shift = np.uint32(8 * c)
        others = np.uint32(0xFFFFFF) ^ np.uint32(byte << shift)
        for i in range(pixels.size):
            channel[i] = np.float32(np.int32(np.right_shift(pixels[i], shift) & byte))
        for i in range(inside):
            out[i] = w0 * here[i] + w1 * (before[i] + after[i])
        for y in range(size):
            first, last = y * size, (y + 1) * size - 1
            rows[first] = w0 * channel[first] + w1 * (channel[first + 1] * two)
            rows[last] = w0 * channel[last] + w1 * (channel[last - 1] * two)
        for i in range(middle):
            blurred = np.uint32(np.int32(w0 * centre[i] + w1 * (upper[i] + lower[i]) + half))
            inner_pixels[i] = np.uint32((inner_pixels[i] & others) | np.left_shift(blurred, shift))
        for x in range(size):
            blurred = np.uint32(np.int32(w0 * rows[x] + w1 * (centre[x] * two) + half))
            pixels[x] = np.uint32((pixels[x] & others) | np.left_shift(blurred, shift))
            blurred = np.uint32(np.int32(w0 * bottom[x] + w1 * (above_bottom[x] * two) + half))
            bottom_pixels[x] = np.uint32((bottom_pixels[x] & others) | np.left_shift(blurred, shift))


@kernel()
def draw_colours(
    numbers: ImageNumbers, shift_key: np.uint64, shift_slot: int, key: np.uint64, slot: int, table: np.ndarray
) -> None:
    """Draw hue shift, saturation and value of an object and fill ``table`` with its colours."""
    shift = uniform_in(shift_key, shift_slot, 0.0, numbers.hue_range)
    saturation = uniform_in(key, slot + 1, numbers.saturation_low, numbers.saturation_high)
    colour_table(shift, saturation, uniform_in(key, slot + 2, numbers.value_low, numbers.value_high), table)


@kernel()
def _paint_texture(numbers: ImageNumbers, key: np.uint64, scratch: Scratch, view: np.ndarray) -> None:
    """Fill a view with a coloured diamond-square texture."""
    size = view.shape[0]
    diamond_square(size, subkey(key, SLOT_TEXTURE), scratch.bits, scratch.texture)
    draw_colours(numbers, key, SLOT_TEXTURE_COLOUR, key, SLOT_TEXTURE_COLOUR, scratch.table)
    for y in range(size):
        for x in range(size):
            colour = scratch.table[1 + int(np.float32(255.0) * scratch.texture[y, x])]
            view[y, x] = np.uint32(
                (colour & np.uint64(255))
                | ((colour >> np.uint64(13)) & np.uint64(255 << 8))
                | ((colour >> np.uint64(26)) & np.uint64(255 << 16))
            )


@kernel()
def plan_pairs(
    recipe: Recipe,
    codes: Codes,
    seed: int,
    epoch: int,
    order: tuple[int, int],
    first: int,
    count: int,
    scratch: Scratch,
) -> int:
    """Choose what consecutive pairs show, and put their images among those to render.

    Args:
        recipe: what pairs look like.
        codes: the classes' codes, or ``SEEDED_CODES``.
        seed: the seed of codes and pairs.
        epoch: the epoch.
        order: of the epoch, from ``epoch_order``.
        first: index of the first pair within the epoch.
        count: how many pairs.
        scratch: changed.

    Returns:
        How many images there are to render.
    """
    wanted = 0
    for pair in range(count):
        key = make_key(seed, PAIR_STREAM, epoch, first + pair)
        scratch.keys[pair] = key
        scratch.counts[pair] = choose_classes(recipe, order, first + pair, key, pair, scratch)
        for k in range(scratch.counts[pair]):
            scratch.wanted[wanted] = scratch.classes[pair, k]
            wanted += 1
    if codes.sizes.size:
        for k in range(wanted):
            copy_code(codes.maps[scratch.wanted[k]], scratch.maps[k])
            scratch.sizes[k] = codes.sizes[scratch.wanted[k]]
    else:
        for start in range(0, wanted, LANES):
            class_codes(
                recipe.codes,
                seed,
                scratch.wanted[start : min(wanted, start + LANES)],
                scratch.images.walks,
                scratch.images.counts,
                scratch.maps[start:],
                scratch.sizes[start:],
            )
    images, code = 0, 0
    for pair in range(count):
        for view in range(recipe.composed_views):
            view_key = subkey(scratch.keys[pair], SLOT_VIEWS + view)
            for k in range(scratch.counts[pair]):
                own = subkey(view_key, SLOT_OBJECTS + k)
                image = image_key(recipe, seed, epoch, first + pair, scratch.places[pair, k], own)
                if view == 1 and scratch.images.keys[scratch.shown[pair, 0, k]] == image:
                    scratch.shown[pair, 1, k] = scratch.shown[pair, 0, k]  # both views show one image of the pool
                    continue
                size = scratch.sizes[code + k]
                scratch.images.keys[images], scratch.images.sizes[images] = image, size
                varied = scratch.images.codes[images]
                jitter_code(scratch.maps[code + k], size, recipe.jitter, recipe.image, image, varied)
                scratch.shown[pair, view, k] = images
                images += 1
        code += scratch.counts[pair]
    return images


@kernel()
def compose_view(recipe: Recipe, pair: int, number: int, scratch: Scratch, view: np.ndarray) -> None:
    """Compose one view of a pair that has been planned and rendered, the requested class first (lowest).

    Args:
        recipe: what views look like.
        pair: the pair's number in ``scratch``.
        number: 0 or 1, which view of the pair.
        scratch: holds the images.
        view: output ``(size, size)``, uint32: red, green and blue in bits 0, 8 and 16.
    """
    numbers = recipe.compose
    pair_key = scratch.keys[pair]
    key = subkey(pair_key, SLOT_VIEWS + number)
    for y in range(recipe.size):
        view[y, :] = np.uint32(0)
    if recipe.background:
        _paint_texture(recipe.image, key, scratch, view)
    for k in range(scratch.counts[pair]):
        own = subkey(key, SLOT_OBJECTS + k)
        shift_key, shift_slot = (pair_key, SLOT_SHIFTS + k) if recipe.colour == COLOUR_JITTER else (own, SLOT_COLOUR)
        draw_colours(recipe.image, shift_key, shift_slot, own, SLOT_COLOUR, scratch.table)
        side = max(1, int(uniform_in(own, SLOT_SIDE, numbers.scale_low, numbers.scale_high) * recipe.size))
        overhang = int(side * numbers.overhang)
        places = recipe.size - side + 2 * overhang
        left = integer(own, SLOT_LEFT, places) - overhang
        top = integer(own, SLOT_TOP, places) - overhang
        orientation = 0
        for turn in range(3):
            if chance(own, SLOT_ORIENTATION + turn, numbers.turn_probability):
                orientation |= 1 << turn
        paste(scratch.images.levels[scratch.shown[pair, number, k]], side, top, left, orientation, scratch, view)
    if chance(key, SLOT_BLUR, numbers.blur_probability):
        blur3(view, uniform_in(key, SLOT_SIGMA, numbers.blur_low, numbers.blur_high), scratch.planes)


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
        codes: the classes' codes, or ``SEEDED_CODES``.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        order: of the epoch, from ``epoch_order``.
        first: index of the first pair within the epoch, from 0.
        count: how many, at most ``scratch.pairs``.
        scratch: from ``empty_scratch``; its ``keys`` are the pairs' keys afterwards, and ``SLOT_AUGMENT`` of their
            views is for what is done with them next.
        views: output ``(2, count, size, size)``, uint32: red, green and blue in bits 0, 8 and 16.
    """
    render(recipe, plan_pairs(recipe, codes, seed, epoch, order, first, count, scratch), scratch.images)
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
    """One pair: its views as composed ``(2, size, size)``, uint32, its key, its classes, the requested one first."""
    scratch = empty_scratch(recipe)
    views = np.empty((2, 1, recipe.size, recipe.size), np.uint32)
    order = epoch_order(seed, epoch, recipe.num_classes)
    compose_pairs(recipe, codes, seed, epoch, order, index, 1, scratch, views)
    return views[:, 0], scratch.keys[0], [int(k) for k in scratch.classes[0, : scratch.counts[0]]]
