"""The recipe of fractal pairs, written to be read: plain Python and NumPy, one pair at a time.

It is the specification against which the compiled and the batched code is tested. It draws its random numbers in one of
two ways. ``SharedDraws`` takes those of the compiled code, by key and slot; then every pixel must agree. ``FreshDraws``
takes NumPy's, and walks the chaos game in one long chain as the paper does; then statistics must agree.

``python -m tests.fps_pretrain.fractals.reference`` writes those statistics of 10,000 pairs to
``reference_statistics.json``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

from fps_pretrain.fractals.augment import slots as augment_slots
from fps_pretrain.fractals.compose import slots
from fps_pretrain.fractals.recipe import COLOUR_JITTER, Recipe, make_recipe
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD
from tests.fps_pretrain.fractals.pair_statistics import Maker, statistics
from tests.fps_pretrain.fractals.reference_draws import FreshDraws, chance, integer
from tests.fps_pretrain.fractals.reference_images import grey_image, shown_code

STORED = Path(__file__).with_name("reference_statistics.json")
PAIRS, FEW = 10_000, 40


# Section 4: a pair.


@dataclass
class Object:
    """One object of a view: its image and where it goes, by its own draws."""

    grey: np.ndarray
    draws: object
    shift: float


def coloured(thing, recipe):
    """Colour "random": hue = grey + shift mod 256, one saturation, one value; OpenCV's 8-bit convention."""
    numbers, draws = recipe.image, thing.draws
    saturation = draws.uniform(slots.SLOT_COLOUR + 1, numbers.saturation_low, numbers.saturation_high)
    value = draws.uniform(slots.SLOT_COLOUR + 2, numbers.value_low, numbers.value_high)
    hue = (thing.grey + int(thing.shift)) % 256 % 180 / 30  # in sixths of a turn
    s, v = np.float32(int(saturation * 255) / 255), np.float32(int(value * 255))
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue) % 6
        weight = np.clip(np.minimum(k, 4 - k), 0, 1).astype(np.float32)
        channels.append((v - v * s * weight + np.float32(0.5)).astype(int))
    return np.where(thing.grey[..., None] >= 0, np.stack(channels, axis=-1), 0)


def resized(image, side):
    """Bilinear, pixel centres at halves, weights in units of 2^-13."""
    source = len(image)
    position = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * (np.float32(source) / np.float32(side))
    position = np.clip(position - np.float32(0.5), 0, source - 1)
    near = position.astype(int)
    far = np.minimum(near + 1, source - 1)
    weight = ((position - near.astype(np.float32)) * np.float32(8192) + np.float32(0.5)).astype(int)
    wy, wx = weight[:, None, None], weight[None, :, None]
    both = (wy * wx + 4096) >> 13
    corners = [image[np.ix_(rows, columns)] for rows in (near, far) for columns in (near, far)]
    weights = [8192 - wy - wx + both, wx - both, wy - both, both]
    return (sum(w * c for w, c in zip(weights, corners, strict=True)) + 4096) >> 13


def composed_view(objects, recipe, draws):
    """Objects in their order, the later ones on top; then perhaps a 3x3 blur: (size, size, 3), 0 .. 255."""
    numbers, size = recipe.compose, recipe.size
    view = np.zeros((size, size, 3), int)
    for thing in objects:
        own = thing.draws
        image = coloured(thing, recipe)
        side = int(own.uniform(slots.SLOT_SIDE, numbers.scale_low, numbers.scale_high) * size)
        overhang = int(side * numbers.overhang)
        left = -overhang + integer(own, slots.SLOT_LEFT, size - (side - overhang) + overhang)
        top = -overhang + integer(own, slots.SLOT_TOP, size - (side - overhang) + overhang)
        turns = [chance(own, slots.SLOT_ORIENTATION + i, numbers.turn_probability) for i in range(3)]
        image = image.transpose(1, 0, 2) if turns[0] else image
        image = image[::-1] if turns[1] else image
        image = image[:, ::-1] if turns[2] else image
        image = resized(image, side)
        rows = slice(max(0, top), min(size, top + side))
        columns = slice(max(0, left), min(size, left + side))
        part = image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        lit = part.any(axis=-1, keepdims=True)
        view[rows, columns] = np.where(lit, part, view[rows, columns])
    if chance(draws, slots.SLOT_BLUR, numbers.blur_probability):
        view = blurred3(view, draws.uniform(slots.SLOT_SIGMA, numbers.blur_low, numbers.blur_high))
    return view


def blurred3(view, sigma):
    outer = math.exp(-0.5 / sigma**2)
    w0, w1 = np.float32(1 / (1 + 2 * outer)), np.float32(outer / (1 + 2 * outer))
    padded = np.pad(view.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = w0 * padded[:, 1:-1] + w1 * (padded[:, :-2] + padded[:, 2:])
    return (w0 * rows[1:-1] + w1 * (rows[:-2] + rows[2:]) + np.float32(0.5)).astype(int)


def pair(recipe: Recipe, codes_of_classes, draws):
    """Both composed views of the given classes (codes), the requested one first: (2, size, size, 3), 0 .. 255."""
    shifts = [draws.uniform(slots.SLOT_SHIFTS + k, 0, recipe.image.hue_range) for k in range(len(codes_of_classes))]
    result = []
    for number in range(2):
        of_view = draws.child(slots.SLOT_VIEWS + number)
        objects = []
        for k, code in enumerate(codes_of_classes):
            own = of_view.child(slots.SLOT_OBJECTS + k)
            shift = own.uniform(slots.SLOT_COLOUR, 0, recipe.image.hue_range)
            shift = shifts[k] if recipe.colour == COLOUR_JITTER else shift
            objects.append(Object(grey_image(code, recipe, own.child(slots.SLOT_IMAGE)), own, shift))
        result.append(composed_view(objects, recipe, of_view))
    return np.stack(result)


# Section 5: augmentation, with torchvision's own operations.


def augmented(image, numbers, draws, size):
    """One view of an image (H, W, 3), 0 .. 255: (3, size, size), normalised."""
    x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    height, width = image.shape[:2]
    for attempt in range(10):
        area = (
            height * width * draws.uniform(augment_slots.SLOT_CROP + 2 * attempt, numbers.crop_low, numbers.crop_high)
        )
        log_ratio = math.log(numbers.crop_ratio)
        ratio = math.exp(draws.uniform(augment_slots.SLOT_CROP + 2 * attempt + 1, -log_ratio, log_ratio))
        w, h = int(math.sqrt(area * ratio) + 0.5), int(math.sqrt(area / ratio) + 0.5)
        if 0 < w <= width and 0 < h <= height:
            top = integer(draws, augment_slots.SLOT_TOP, height - h + 1)
            left = integer(draws, augment_slots.SLOT_LEFT, width - w + 1)
            break
    else:
        h = w = min(height, width)
        top, left = (height - h) // 2, (width - w) // 2
    x = TF.resized_crop(x, top, left, h, w, [size, size], antialias=False)
    if chance(draws, augment_slots.SLOT_FLIP, numbers.mirror_probability):
        x = TF.horizontal_flip(x)
    if chance(draws, augment_slots.SLOT_JITTER, numbers.colour_probability):
        operations = [
            lambda x, d: TF.adjust_brightness(x, 1 + numbers.brightness * d),
            lambda x, d: TF.adjust_contrast(x, 1 + numbers.contrast * d),
            lambda x, d: TF.adjust_saturation(x, 1 + numbers.saturation * d),
            lambda x, d: TF.adjust_hue(x, numbers.hue * d),
        ]
        left_over = [0, 1, 2, 3]
        for k in range(4):
            which = left_over.pop(integer(draws, augment_slots.SLOT_ORDER + k, 4 - k))
            x = operations[which](x, draws.uniform(augment_slots.SLOT_FACTORS + which, -1, 1))
    if chance(draws, augment_slots.SLOT_GREY, numbers.grey_probability):
        x = TF.rgb_to_grayscale(x, 3)
    if chance(draws, augment_slots.SLOT_BLUR, numbers.blur_probability):
        sigma = draws.uniform(augment_slots.SLOT_SIGMA, numbers.blur_low, numbers.blur_high)
        x = TF.gaussian_blur(x, [5, 5], [sigma, sigma])
    return TF.normalize(x, list(IMAGENET_MEAN), list(IMAGENET_STD)).numpy()


def maker(seed):
    """Pairs with NumPy's random numbers, for their statistics."""

    def fresh(look, k):
        return FreshDraws(np.random.default_rng([seed, look, k]))

    def greys(recipe, k):
        draws = fresh(0, k)
        code = shown_code(recipe.codes, draws)
        return np.stack([grey_image(code, recipe, draws) for _ in range(2)])

    def of_classes(recipe, k):
        draws = fresh(1, k)
        count = recipe.min_objects + integer(draws, 0, recipe.max_objects - recipe.min_objects + 1)
        return pair(recipe, [shown_code(recipe.codes, draws) for _ in range(count)], draws)

    return Maker(greys, of_classes, lambda image, recipe, k: augmented(image, recipe.augment, fresh(2, k), recipe.size))


def main():
    torch.set_num_threads(1)
    found = statistics(maker(seed=0), make_recipe(32), PAIRS)
    check = statistics(maker(seed=0), make_recipe(32), FEW)
    STORED.write_text(json.dumps({"pairs": PAIRS, "all": found, "the first few": check}, indent=0) + "\n")


if __name__ == "__main__":
    main()
