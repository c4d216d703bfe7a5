"""The recipe of fractal pairs, written to be read: plain Python and NumPy, one pair at a time.

It is the specification that the compiled and the batched code is tested against. It draws its random numbers in one of
two ways. ``SharedDraws`` takes those of the compiled code, by their names; then every pixel must agree. ``FreshDraws``
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

from fps_pretrain.fractals import chaos_game as walk
from fps_pretrain.fractals import codes, render, rng, views
from fps_pretrain.fractals import compose as pairs
from fps_pretrain.fractals.recipe import COLOUR_JITTER, JITTER_NONE, Recipe, make_recipe
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD
from tests.fps_pretrain.fractals.pair_statistics import Maker, statistics

STORED = Path(__file__).with_name("reference_statistics.json")
PAIRS, FEW = 10_000, 40


class SharedDraws:
    """The numbers that the compiled code draws: by key and slot."""

    one_chain = False

    def __init__(self, key):
        self.key = np.uint64(key)

    def uniform(self, slot, low=0.0, high=1.0):
        return low + (high - low) * rng.uniform(self.key, slot)

    def child(self, slot):
        return SharedDraws(rng.subkey(self.key, slot))

    def choices(self, count):
        """Integers below 65,536."""
        bits = np.empty((count + 1) // 2, np.uint32)
        rng.fill_bits(self.key, bits)
        return np.stack([bits & 0xFFFF, bits >> 16], axis=1).ravel()[:count].astype(np.int64)


class FreshDraws:
    """NumPy's numbers, whatever they are for."""

    one_chain = True

    def __init__(self, generator):
        self.generator = generator

    def uniform(self, slot, low=0.0, high=1.0):
        return low + (high - low) * self.generator.random()

    def child(self, slot):
        return self

    def choices(self, count):
        return self.generator.integers(0, 65_536, count)


def integer(draws, slot, n):
    return int(draws.uniform(slot) * n)


def chance(draws, slot, probability):
    return draws.uniform(slot) < probability


# Section 1: codes. A code is an array (n, 2, 3): the linear parts and the translations of its maps.


def sample_code(numbers, draws):
    n = numbers.min_maps + integer(draws, codes._SLOT_MAPS, numbers.max_maps - numbers.min_maps + 1)
    alpha = draws.uniform(codes._SLOT_SIGMA, (numbers.sigma_low + n) / 2, (numbers.sigma_high + n) / 2)
    p, q = alpha, alpha - 3 * n + 3
    singular = []
    for k in range(n - 1):
        s1 = draws.uniform(codes._SLOT_SINGULAR + 2 * k, max(0, q / 3), min(1, p))
        p, q = p - s1, q - s1
        s2 = draws.uniform(codes._SLOT_SINGULAR + 2 * k + 1, max(0, q / 2), min(s1, p / 2))
        p, q = p - 2 * s2, q + 3 - 2 * s2
        singular.append((s1, s2))
    s2 = draws.uniform(codes._SLOT_SINGULAR + 2 * n - 2, max(0, (p - 1) / 2), p / 3)
    singular.append((p - 2 * s2, s2))
    code = np.empty((n, 2, 3))
    for k, (s1, s2) in enumerate(singular):
        slot = codes._SLOT_LINEAR + 6 * k
        sign1 = 1 if chance(draws, slot, 0.5) else -1
        sign2 = 1 if chance(draws, slot + 1, 0.5) else -1
        u, v = (draws.uniform(slot + i, -math.pi, math.pi) for i in (2, 3))
        code[k, :, :2] = rotation(u) @ np.diag([sign1 * s1, sign2 * s2]) @ rotation(v)
        code[k, :, 2] = [draws.uniform(slot + i, -numbers.translation, numbers.translation) for i in (4, 5)]
    return code


def shown_code(numbers, draws):
    """A code whose attractor has an extent to show: 256 points hit 14 cells of 16 x 16. (The paper shows all.)"""
    while True:
        code = sample_code(numbers, draws)
        if (hit_counts(chaos_game(code, 256, draws), 16) > 0).sum() >= 14:
            return code


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def jittered(code, recipe, draws):
    """Jitter "none", or "basic": one random map times U(0.8, 1.1), up to 4 tries while a singular value exceeds 1."""
    numbers = recipe.image
    for attempt in range(0 if recipe.jitter == JITTER_NONE else 4):
        varied = code.copy()
        slot = attempt * codes.JITTER_SLOTS
        k = integer(draws, slot, len(code))
        varied[k] *= draws.uniform(slot + 1, numbers.jitter_low, numbers.jitter_high)
        if np.linalg.norm(varied[:, :, :2], ord=2, axis=(1, 2)).max() <= 1:
            return varied
    return code


# Section 2: rendering.


def chaos_game(code, points, draws):
    """Points (points, 2) of the attractor: map k with probability proportional to |det A_k|."""
    areas = np.abs(np.linalg.det(code[:, :, :2]))
    cuts = np.floor(np.cumsum(areas / areas.sum()) * 65_536 + 0.5)[:-1]
    start = np.linalg.solve(np.eye(2) - code[0, :, :2], code[0, :, 2])

    def chain(start, choices):
        visited, (x, y) = [], start
        for k in (choices[:, None] >= cuts).sum(axis=1):
            (a, b, e), (c, d, f) = maps[k]
            x, y = a * x + b * y + e, c * x + d * y + f
            visited.append((x, y))
        return np.array(visited)

    if draws.one_chain:
        maps = code.tolist()
        return chain(start, draws.choices(points))
    maps = code.astype(np.float32)  # compiled code walks in single precision
    start = start.astype(np.float32)
    if points <= walk.LONGEST_CHAIN:
        return chain(start, draws.choices(points))
    # A very long walk forks into 32: its branches go on from the last points of its first steps.
    trunk = chain(start, draws.choices(walk.TRUNK))
    steps = -(-(points - walk.TRUNK) // walk.LANES)
    ends = trunk[-walk.LANES :]
    branches = [chain(end, draws.child(lane).choices(steps)) for lane, end in enumerate(ends)]
    return np.concatenate([trunk, np.stack(branches, axis=1).reshape(-1, 2)])[:points]


def hit_counts(points, side):
    """How many points fall into each cell; the bounding box fills the image, x to rows."""
    low, high = points.min(axis=0), points.max(axis=0)
    if (high - low).min() < 1e-6 or np.abs(points).max() > 1e6:  # nothing to show
        return np.zeros((side, side), int)
    scale = np.asarray((side - 1) * (1 + 2**-21), points.dtype) / (high - low)  # a hair more, against rounding
    rows, columns = ((points - low) * scale).astype(int).T
    counts = np.zeros((side, side), int)
    np.add.at(counts, (rows, columns), 1)
    return counts


def grey_image(code, recipe, draws):
    """A grey image of a code: -1 where there is nothing, else 0 .. 255."""
    counts = hit_counts(
        chaos_game(jittered(code, recipe, draws), recipe.points, draws.child(render.SLOT_WALK)),
        recipe.render_side,
    )
    if not counts.any():
        counts[recipe.render_side // 2, recipe.render_side // 2] = recipe.points
    patch = [chance(draws, render.SLOT_PATCH + cell, recipe.image.cell_probability) for cell in range(9)]
    if not any(patch):
        patch[integer(draws, render.SLOT_PATCH + 9, 9)] = True
    padded = np.pad(counts, 1)
    side = recipe.render_side
    stamped = np.zeros((side, side), int)
    for cell in np.flatnonzero(patch):
        dy, dx = cell // 3 - 1, cell % 3 - 1
        stamped += padded[1 - dy : 1 - dy + side, 1 - dx : 1 - dx + side]
    return np.where(stamped > 0, stamped * 255 // stamped.max(), -1)


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
    saturation = draws.uniform(pairs.SLOT_COLOUR + 1, numbers.saturation_low, numbers.saturation_high)
    value = draws.uniform(pairs.SLOT_COLOUR + 2, numbers.value_low, numbers.value_high)
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
        side = int(own.uniform(pairs.SLOT_SIDE, numbers.scale_low, numbers.scale_high) * size)
        overhang = int(side * numbers.overhang)
        left = -overhang + integer(own, pairs.SLOT_LEFT, size - (side - overhang) + overhang)
        top = -overhang + integer(own, pairs.SLOT_TOP, size - (side - overhang) + overhang)
        turns = [chance(own, pairs.SLOT_ORIENTATION + i, numbers.turn_probability) for i in range(3)]
        image = image.transpose(1, 0, 2) if turns[0] else image
        image = image[::-1] if turns[1] else image
        image = image[:, ::-1] if turns[2] else image
        image = resized(image, side)
        rows = slice(max(0, top), min(size, top + side))
        columns = slice(max(0, left), min(size, left + side))
        part = image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        lit = part.any(axis=-1, keepdims=True)
        view[rows, columns] = np.where(lit, part, view[rows, columns])
    if chance(draws, pairs.SLOT_BLUR, numbers.blur_probability):
        view = blurred3(view, draws.uniform(pairs.SLOT_SIGMA, numbers.blur_low, numbers.blur_high))
    return view


def blurred3(view, sigma):
    outer = math.exp(-0.5 / sigma**2)
    w0, w1 = np.float32(1 / (1 + 2 * outer)), np.float32(outer / (1 + 2 * outer))
    padded = np.pad(view.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = w0 * padded[:, 1:-1] + w1 * (padded[:, :-2] + padded[:, 2:])
    return (w0 * rows[1:-1] + w1 * (rows[:-2] + rows[2:]) + np.float32(0.5)).astype(int)


def pair(recipe: Recipe, codes_of_classes, draws):
    """Both composed views of the given classes (codes), the requested one first: (2, size, size, 3), 0 .. 255."""
    shifts = [draws.uniform(pairs.SLOT_SHIFTS + k, 0, recipe.image.hue_range) for k in range(len(codes_of_classes))]
    result = []
    for number in range(2):
        of_view = draws.child(pairs.SLOT_VIEWS + number)
        objects = []
        for k, code in enumerate(codes_of_classes):
            own = of_view.child(pairs.SLOT_OBJECTS + k)
            shift = own.uniform(pairs.SLOT_COLOUR, 0, recipe.image.hue_range)
            shift = shifts[k] if recipe.colour == COLOUR_JITTER else shift
            objects.append(Object(grey_image(code, recipe, own.child(pairs.SLOT_IMAGE)), own, shift))
        result.append(composed_view(objects, recipe, of_view))
    return np.stack(result)


# Section 5: augmentation, with torchvision's own operations.


def augmented(image, numbers, draws, size):
    """One view of an image (H, W, 3), 0 .. 255: (3, size, size), normalised."""
    x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    height, width = image.shape[:2]
    for attempt in range(10):
        area = height * width * draws.uniform(views.SLOT_CROP + 2 * attempt, numbers.crop_low, numbers.crop_high)
        log_ratio = math.log(numbers.crop_ratio)
        ratio = math.exp(draws.uniform(views.SLOT_CROP + 2 * attempt + 1, -log_ratio, log_ratio))
        w, h = int(math.sqrt(area * ratio) + 0.5), int(math.sqrt(area / ratio) + 0.5)
        if 0 < w <= width and 0 < h <= height:
            top = integer(draws, views.SLOT_TOP, height - h + 1)
            left = integer(draws, views.SLOT_LEFT, width - w + 1)
            break
    else:
        h = w = min(height, width)
        top, left = (height - h) // 2, (width - w) // 2
    x = TF.resized_crop(x, top, left, h, w, [size, size], antialias=False)
    if chance(draws, views.SLOT_FLIP, numbers.mirror_probability):
        x = TF.horizontal_flip(x)
    if chance(draws, views.SLOT_JITTER, numbers.colour_probability):
        operations = [
            lambda x, d: TF.adjust_brightness(x, 1 + numbers.brightness * d),
            lambda x, d: TF.adjust_contrast(x, 1 + numbers.contrast * d),
            lambda x, d: TF.adjust_saturation(x, 1 + numbers.saturation * d),
            lambda x, d: TF.adjust_hue(x, numbers.hue * d),
        ]
        left_over = [0, 1, 2, 3]
        for k in range(4):
            which = left_over.pop(integer(draws, views.SLOT_ORDER + k, 4 - k))
            x = operations[which](x, draws.uniform(views.SLOT_FACTORS + which, -1, 1))
    if chance(draws, views.SLOT_GREY, numbers.grey_probability):
        x = TF.rgb_to_grayscale(x, 3)
    if chance(draws, views.SLOT_BLUR, numbers.blur_probability):
        sigma = draws.uniform(views.SLOT_SIGMA, numbers.blur_low, numbers.blur_high)
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
