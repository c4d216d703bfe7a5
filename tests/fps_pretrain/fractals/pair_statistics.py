"""Statistics of fractal pairs by which two makers of them are compared: means over pairs, with their standard errors.

Three looks at a maker: grey images of classes, two of each; views as composed, of one object and of as many as the
recipe has; and a fixed picture augmented again and again, wholly and by parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from fps_pretrain.fractals.batch import augment_pair
from fps_pretrain.fractals.codes import fill_code_table
from fps_pretrain.fractals.compose.colours import pack, unpack
from fps_pretrain.fractals.compose.pairs import composed
from fps_pretrain.fractals.jitter import jitter_code
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.fractals.render import empty_images, render
from fps_pretrain.fractals.rng import IMAGE_STREAM, PAIR_STREAM, make_key
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD

Statistics = dict[str, tuple[float, float]]
"""Mean and standard error by name."""


@dataclass
class Maker:
    """Someone who makes pairs.

    Attributes:
        greys: (recipe, k) -> two grey images of one class, ``(2, s, s)``, -1 where nothing is, else 0 .. 255.
        pair: (recipe, k) -> two views as composed, ``(2, size, size, 3)``, 0 .. 255.
        augmented: (picture, recipe, k) -> a view of it, ``(3, size, size)``, normalised.
    """

    greys: Callable[[Recipe, int], np.ndarray]
    pair: Callable[[Recipe, int], np.ndarray]
    augmented: Callable[[np.ndarray, Recipe, int], np.ndarray]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float(a @ b / max(1e-9, np.sqrt((a @ a) * (b @ b))))


def _roughness(image: np.ndarray) -> float:
    """Mean difference of neighbours, as a share of the spread."""
    image = image.astype(np.float64)
    return float((np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()) / (image.std() + 1e-9))


def grey_features(pair: np.ndarray) -> dict[str, float]:
    """Of two grey images of one class."""
    first, second = pair
    lit = first >= 0
    level = np.maximum(first, 0) / 255
    return {
        "coverage": lit.mean(),
        "level": level[lit].mean(),
        "level deviation": level[lit].std(),
        "bright": (level > 0.5).mean(),
        "roughness": _roughness(level),
        "edge": np.abs(np.diff(lit.astype(int), axis=0)).mean(),
        "alike": _correlation(np.maximum(first, 0), np.maximum(second, 0)),
        "alike in shape": _correlation(first >= 0, second >= 0),
        "coverage apart": abs(lit.mean() - (second >= 0).mean()),
    }


def _hsv(view: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hsv = cv2.cvtColor(view.astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float64)
    return hsv[..., 0], hsv[..., 1], hsv[..., 2]


def _turned_alike(first: np.ndarray, second: np.ndarray) -> float:
    """How much more the objects of two views look alike as they are than turned in all other ways."""
    boxes = []
    for lit in (first.any(axis=-1), second.any(axis=-1)):
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        box = lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
        boxes.append(cv2.resize(box, (12, 12), interpolation=cv2.INTER_AREA))
    a, b = boxes
    turned = [t[::v, ::h] for t in (b, b.T) for v in (1, -1) for h in (1, -1)]
    likeness = [_correlation(a, t) for t in turned]
    return likeness[0] - float(np.mean(likeness[1:]))


def object_features(pair: np.ndarray) -> dict[str, float]:
    """Of two views of one object: its size, place, colours and sharpness."""
    view = pair[0]
    lit = view.any(axis=-1)
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    hue, saturation, value = _hsv(view)
    core = lit & (value > 0.7 * value.max())  # a blur darkens the rim
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    features = {
        "height": height,
        "width": width,
        "largest": max(height, width) > 0.72 * len(view),
        "smallest": max(height, width) < 0.5 * len(view),
        "middle row": rows.mean() / len(view),
        "far from the middle": abs(rows.mean() / len(view) - 0.5) + abs(columns.mean() / len(view) - 0.5),
        "at a border": float(rows[0] == 0) + (rows[-1] == len(view) - 1),
        "saturation": saturation[core].mean() / 255,
        "palest": (saturation[core].max() < 0.42 * 255),
        "most saturated": (saturation[core].max() > 0.93 * 255),
        "value": value.max() / 255,
        "darkest": value.max() < 0.58 * 255,
        "brightest": value.max() > 0.93 * 255,
        "roughness": _roughness(value),
        "rim": (lit & (value < 0.5 * value.max())).mean() / lit.mean(),
        "faint rim": (lit & (value < 0.15 * value.max())).mean() / lit.mean(),
        "turned alike": _turned_alike(*pair),
    }
    features |= {
        f"hue {k}": share for k, share in enumerate(np.bincount(hue[core].astype(int) // 18, minlength=10) / core.sum())
    }
    features["hues alike"] = _correlation(
        *(np.bincount(_hsv(v)[0][v.any(axis=-1)].astype(int) // 9, minlength=20) for v in pair)
    )
    return features


def pair_features(pair: np.ndarray) -> dict[str, float]:
    """Of two views with all their objects."""
    first, second = pair.astype(np.float64) / 255
    features: dict[str, float] = {
        "coverage": first.any(axis=-1).mean(),
        "coverage apart": abs(first.any(axis=-1).mean() - second.any(axis=-1).mean()),
        "alike": _correlation(first.mean(axis=-1), second.mean(axis=-1)),
        "roughness": _roughness(first.mean(axis=-1)),
    }
    for c, name in enumerate(("red", "green", "blue")):
        features[f"{name} mean"], features[f"{name} deviation"] = first[..., c].mean(), first[..., c].std()
    return features


def picture_of(size: int) -> np.ndarray:
    """A picture that tells augmentations apart: red rises to the right, green downwards, blue is a board of squares."""
    ramp = np.linspace(60, 200, size)
    board = np.indices((size, size)).sum(axis=0) // 2 % 2 * 60 + 70
    return np.stack(
        [np.broadcast_to(ramp, (size, size)), np.broadcast_to(ramp[:, None], (size, size)), board], axis=-1
    ).astype(np.uint8)


def _mean_hue(image: np.ndarray) -> complex:
    """The direction of an image's colours, without its greys."""
    return complex((image @ np.exp(2j * np.pi * np.arange(3) / 3)).sum())


def augmented_features(view: np.ndarray) -> dict[str, float]:
    """Of one augmented view of the picture."""
    image = view.transpose(1, 2, 0) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    saturation = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)[..., 1].astype(np.float64)
    grey = np.ptp(image, axis=-1).max() < 1e-3
    luma = image @ np.array([0.299, 0.587, 0.114])
    red, green = image[..., 0] - image[..., 2], image[..., 1] - image[..., 2]
    across, down = (
        np.polyfit(np.arange(len(luma)), luma.mean(axis=0), 1)[0],
        np.polyfit(np.arange(len(luma)), luma.mean(axis=1), 1)[0],
    )
    high = np.abs(np.diff(luma, axis=0)).mean()
    features = {
        "grey": grey,
        "mirrored": across < 0,
        "steepness": np.hypot(across, down),
        "steepness across over down": abs(np.log((abs(across) + 1e-4) / (abs(down) + 1e-4))),
        "brightness": luma.mean(),
        "brightness of extremes": (luma.mean() > 0.62) + (luma.mean() < 0.36),
        "contrast": luma.std(),
        "contrast over brightness": luma.std() / (luma.mean() + 1e-3),
        "contrast of extremes": abs(luma.std() / (luma.mean() + 1e-3) / 0.219 - 1) > 0.33,
        "colour over contrast": np.ptp(image, axis=-1).mean() / (luma.std() + 1e-3),
        "sharpness": high / (luma.std() + 1e-3),
        "blunt": high / (luma.std() + 1e-3) < 0.35,
        "middle across": abs((image[..., 0] * np.linspace(-1, 1, len(luma))).mean()),
        "mean of red over mean of blue": red.mean() if not grey else 0.0,
        "mean of green over mean of blue": green.mean() if not grey else 0.0,
        "saturation": saturation.mean(),
        "saturation deviation": saturation.std(),
        "hue turned": abs(np.angle(_mean_hue(image) / _mean_hue(picture_of(len(image)) / 255))) if not grey else 0.0,
        "clipped": (image > 0.999).mean(),
    }
    return {name: float(v) for name, v in features.items()}


LOOKS = ("grey", "object", "pair", "crop", "colour", "blur", "augment")


def statistics(maker: Maker, recipe: Recipe, count: int, looks: tuple[str, ...] = LOOKS) -> Statistics:
    """Means of the features and of their squares over ``count`` pairs, with standard errors.

    Three of the looks see a part of the augmentation alone, with the rest of it switched off.
    """
    picture = picture_of(recipe.size)
    alone = recipe._replace(min_objects=1, max_objects=1)
    whole, plain = {"crop_low": 1.0, "crop_high": 1.0, "crop_ratio": 1.0}, {"colour_probability": 0.0}
    sharp, coloured = {"blur_probability": 0.0}, {"grey_probability": 0.0}
    parts = {"crop": plain | sharp | coloured, "colour": whole | sharp | coloured, "blur": whole | plain, "augment": {}}

    def augmented(look: str, k: int) -> dict[str, float]:
        part = recipe._replace(augment=recipe.augment._replace(**parts[look]))
        return augmented_features(maker.augmented(picture, part, k))

    make = {
        "grey": lambda k: grey_features(maker.greys(recipe, k)),
        "object": lambda k: object_features(maker.pair(alone, k)),
        "pair": lambda k: pair_features(maker.pair(recipe, k)),
        **{look: partial(augmented, look) for look in parts},
    }
    found: Statistics = {}
    for look in looks:
        rows = [make[look](k) for k in range(count)]
        for name in rows[0]:
            values = np.array([row[name] for row in rows], np.float64)
            for label, v in ((f"{look}: {name}", values), (f"{look}: {name}, squared", values**2)):
                found[label] = (float(v.mean()), float(v.std() / np.sqrt(count)))
    return found


def distances(ours: Statistics, theirs: Statistics) -> dict[str, float]:
    """By name, how many standard errors two means are apart.

    Some statistics hardly vary: what is less than 1 in 2,000 apart for other roundings counts as less than one.
    """
    return {
        name: abs(mean - theirs[name][0]) / max(5e-4 * max(0.1, abs(mean)), np.hypot(error, theirs[name][1]))
        for name, (mean, error) in ours.items()
    }


def compiled_maker(seed: int) -> Maker:
    """The compiled code, one pair at a time."""

    def greys(recipe: Recipe, k: int) -> np.ndarray:
        images = empty_images(recipe, 2)
        codes, sizes = np.empty((1, 4, 2, 3)), np.empty(1, np.int64)
        fill_code_table(recipe.codes, seed, k, codes, sizes)
        for image in range(2):
            images.keys[image], images.sizes[image] = make_key(seed, IMAGE_STREAM, k, image), sizes[0]
            jitter_code(codes[0], sizes[0], recipe.jitter, recipe.image, images.keys[image], images.codes[image])
        render(recipe, 2, images)
        return images.grey_images.reshape(2, recipe.render_side, -1).astype(int) - 1

    def augmented(picture: np.ndarray, recipe: Recipe, k: int) -> np.ndarray:
        key = np.uint64(make_key(seed, PAIR_STREAM, 0, k))
        return augment_pair(np.stack([pack(picture)] * 2), key, recipe.size, recipe.augment)[0]

    return Maker(greys, lambda recipe, k: unpack(composed(recipe, seed, 0, k)[0]).astype(int), augmented)
