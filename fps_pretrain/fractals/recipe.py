"""What pairs look like: the recipe's numbers and options, checked. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fps_pretrain.common.errors import UserError

COLOURS = ("random", "jitter")
COLOUR_RANDOM, COLOUR_JITTER = range(2)
JITTERS = ("none", "basic", "fractaldb", "svd", "sval")
JITTER_NONE, JITTER_BASIC, JITTER_FRACTALDB, JITTER_SVD, JITTER_SVAL = range(5)
BACKGROUNDS = ("black", "diamond-square")
MAX_MAPS = 4
MAX_OBJECTS = 16
MIN_SIZE, MAX_SIZE = 16, 512
MAX_POOL = 1_048_576


class CodeNumbers(NamedTuple):
    """How codes are sampled (Anderson and Farrell, WACV 2022, section 3.2)."""

    min_maps: int = 2
    """Fewest maps of a code; their number is uniform between the two."""
    max_maps: int = 4
    """Most maps of a code."""
    sigma_low: float = 5.0
    """The sigma-factor of n maps is uniform from (sigma_low + n) / 2 ..."""
    sigma_high: float = 6.0
    """... to (sigma_high + n) / 2."""
    translation: float = 1.0
    """Translations are uniform on plus or minus this (which no image shows: all are scaled to their extent)."""


class ImageNumbers(NamedTuple):
    """How images of a code differ (Chen et al., ICLR 2023, appendix; the released code)."""

    jitter_low: float = 0.8
    """Jitter multiplies by a number uniform from here ..."""
    jitter_high: float = 1.1
    """... to here."""
    cell_probability: float = 0.5
    """Each cell of the 3 x 3 patch is on with this probability."""
    hue_range: float = 255.0
    """The hue shift of an object is uniform from 0 to this, of 256."""
    saturation_low: float = 0.3
    """Saturation of an object, uniform from here ..."""
    saturation_high: float = 1.0
    """... to here."""
    value_low: float = 0.5
    """Value (brightness) of an object, uniform from here ..."""
    value_high: float = 1.0
    """... to here."""


class ComposeNumbers(NamedTuple):
    """How objects make a view (Chen et al., ICLR 2023, section 4 and appendix)."""

    turn_probability: float = 0.5
    """Each of transpose, vertical and horizontal flip happens to an object with this probability."""
    scale_low: float = 0.45
    """Side of an object as a share of the view's, uniform from here ..."""
    scale_high: float = 0.75
    """... to here."""
    overhang: float = 0.25
    """The share of its side by which an object may stand out of the view."""
    blur_probability: float = 0.5
    """How often a view is blurred, 3 x 3."""
    blur_low: float = 0.5
    """Sigma of that blur in pixels, uniform from here ..."""
    blur_high: float = 2.0
    """... to here."""


class ViewNumbers(NamedTuple):
    """How views are augmented (Chen et al., ICLR 2023, appendix), as torchvision's transforms count it."""

    crop_low: float = 0.2
    """Share of the area that a crop shows, uniform from here ..."""
    crop_high: float = 1.0
    """... to here."""
    crop_ratio: float = 4.0 / 3.0
    """Width over height of a crop, log-uniform from 1 over this to this."""
    mirror_probability: float = 0.5
    """How often a view is flipped from left to right."""
    colour_probability: float = 0.8
    """How often colours are jittered: in random order brightness,"""
    brightness: float = 0.4
    """by a factor uniform on 1 plus or minus this,"""
    contrast: float = 0.4
    """contrast likewise,"""
    saturation: float = 0.4
    """saturation likewise,"""
    hue: float = 0.1
    """and hue by plus or minus this share of a turn."""
    grey_probability: float = 0.2
    """How often a view turns grey."""
    blur_probability: float = 0.5
    """How often a view is blurred, 5 x 5."""
    blur_low: float = 0.1
    """Sigma of that blur in pixels, uniform from here ..."""
    blur_high: float = 2.0
    """... to here."""


class Recipe(NamedTuple):
    """All that decides what pairs look like, in a form that compiled code takes. ``make_recipe`` builds it.

    Attributes:
        size: side of a view in pixels.
        num_classes: number of codes.
        min_objects: fewest objects in a view.
        max_objects: most objects in a view; their number is uniform between the two.
        points: steps of the chaos game for one image.
        render_side: side of a rendered grey image in pixels.
        jitter: index into ``JITTERS``.
        colour: index into ``COLOURS``.
        background: index into ``BACKGROUNDS``.
        composed_views: 2 for two composed images; 1 when one image serves both views (the paper's ablation).
        pool: pairs in a block that shares images, or 0 to render every object of every view afresh.
        pool_images: most images of a class in such a block.
        codes: numbers of the codes.
        image: numbers of the images.
        compose: numbers of the views as composed.
        augment: numbers of their augmentation.
    """

    size: int
    num_classes: int
    min_objects: int
    max_objects: int
    points: int
    render_side: int
    jitter: int
    colour: int
    background: int
    composed_views: int
    pool: int
    pool_images: int
    codes: CodeNumbers
    image: ImageNumbers
    compose: ComposeNumbers
    augment: ViewNumbers


GROUPS: dict[str, Any] = {
    "codes": CodeNumbers,
    "image": ImageNumbers,
    "compose": ComposeNumbers,
    "augment": ViewNumbers,
}
# The most a number may be where it is not 1; where another one bounds it from below, see _RANGES.
_MOST = {
    "codes.max_maps": MAX_MAPS,
    "codes.min_maps": MAX_MAPS,
    "codes.sigma_low": 6.0,
    "codes.sigma_high": 6.0,
    "codes.translation": 1e3,
    "image.jitter_low": 10.0,
    "image.jitter_high": 10.0,
    "image.hue_range": 255.0,
    "compose.blur_low": 100.0,
    "compose.blur_high": 100.0,
    "augment.crop_ratio": 10.0,
    "augment.hue": 0.5,
    "augment.blur_low": 100.0,
    "augment.blur_high": 100.0,
}
_LEAST = {
    "codes.min_maps": 2,
    "codes.sigma_low": 4.0,
    "codes.translation": 1e-3,
    "image.cell_probability": 0.01,
    "compose.scale_low": 0.01,
    "compose.blur_low": 0.01,
    "augment.crop_low": 0.01,
    "augment.crop_ratio": 1.0,
    "augment.blur_low": 0.01,
}
_RANGES = (
    *(("codes.min_maps", "codes.max_maps"), ("codes.sigma_low", "codes.sigma_high")),
    *(("image.jitter_low", "image.jitter_high"), ("image.saturation_low", "image.saturation_high")),
    *(("image.value_low", "image.value_high"), ("compose.scale_low", "compose.scale_high")),
    *(("compose.blur_low", "compose.blur_high"), ("augment.crop_low", "augment.crop_high")),
    ("augment.blur_low", "augment.blur_high"),
)


def _numbers(changes: Mapping[str, float]) -> dict[str, NamedTuple]:
    """The groups of numbers with some of them changed, by names such as ``compose.scale_low``.

    Raises:
        UserError: there is no such number, or it is out of range.
    """
    known = [f"{group}.{name}" for group, numbers in GROUPS.items() for name in numbers._fields]
    for name, value in changes.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 3) or known
            raise UserError(f"the recipe has no number '{name}': did you mean {' or '.join(close[:3])}?")
        low, high = _LEAST.get(name, 0.0), _MOST.get(name, 1.0)
        if not low <= value <= high:
            raise UserError(f"{name} must be in {low:g} .. {high:g}, got {value:g}")
        if name.endswith("_maps") and value != int(value):
            raise UserError(f"{name} must be a whole number, got {value:g}")
    groups: dict[str, NamedTuple] = {}
    for group, numbers in GROUPS.items():
        mine = {name.partition(".")[2]: v for name, v in changes.items() if name.startswith(f"{group}.")}
        groups[group] = numbers(**{name: int(v) if name.endswith("_maps") else float(v) for name, v in mine.items()})
    for low_name, high_name in _RANGES:
        low, high = (getattr(groups[name.partition(".")[0]], name.partition(".")[2]) for name in (low_name, high_name))
        if low > high:
            raise UserError(f"{low_name} ({low:g}) must not exceed {high_name} ({high:g})")
    return groups


DEFAULT_VIEW_NUMBERS = ViewNumbers()


def describe(recipe: Recipe) -> dict[str, Any]:
    """A recipe in plain values, groups of numbers as dictionaries."""
    return {name: v._asdict() if hasattr(v, "_asdict") else v for name, v in recipe._asdict().items()}


def make_recipe(
    size: int = 32,
    *,
    num_classes: int = 100_000,
    objects: tuple[int, int] | None = None,
    colour: str = "random",
    jitter: str = "basic",
    background: str = "black",
    composed_views: int = 2,
    pool: int = 0,
    numbers: Mapping[str, float] | None = None,
) -> Recipe:
    """The paper's recipe for views of ``size`` pixels, with its options.

    Up to 64 px an image is rendered at the size of the view with about one point a pixel (1,000 points at 32 px) and a
    view holds 2 objects; above, at half of it with 8 points a pixel (100,000 at 224 px), and 2 to 5 objects.

    Args:
        size: side of a view in pixels, 16 to 512.
        num_classes: number of codes, at least as many as objects.
        objects: fewest and most objects in a view; None for the paper's.
        colour: ``random``, or ``jitter`` for the same hue shift of a class in both views.
        jitter: how a code varies between images: ``none``, ``basic``, ``fractaldb``, ``svd`` or ``sval``.
        background: ``black`` or ``diamond-square``.
        composed_views: 2, or 1 to make both views of one composed image.
        pool: pairs in a block that shares images, 1,024 for about what the released code does, or 0 for none.
        numbers: any other number of the recipe to change, by group and name, such as ``{"compose.scale_low": 0.3}``.

    Raises:
        UserError: a value is out of range or not one of the names.
    """
    small = size <= 64
    low, high = objects or ((2, 2) if small else (2, 5))
    for value, name, choices in (
        (colour, "colour", COLOURS),
        (jitter, "jitter", JITTERS),
        (background, "background", BACKGROUNDS),
    ):
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, got '{value}'")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")
    if not 1 <= low <= high <= MAX_OBJECTS:
        raise UserError(f"objects must be two numbers, 1 <= fewest <= most <= {MAX_OBJECTS}, got {low} {high}")
    if num_classes < high:
        raise UserError(f"classes must be at least the number of objects ({high}), got {num_classes}")
    if composed_views not in (1, 2):
        raise UserError(f"composed-views must be 1 or 2, got {composed_views}")
    if pool and not high <= pool <= MAX_POOL:
        raise UserError(f"pool must be 0 or between the number of objects ({high}) and {MAX_POOL}, got {pool}")
    side = size if small else size // 2
    return Recipe(
        size=size,
        num_classes=num_classes,
        min_objects=low,
        max_objects=high,
        points=round(1_000 * (size / 32) ** 2) if small else round(100_000 * (side / 112) ** 2),
        render_side=side,
        jitter=JITTERS.index(jitter),
        colour=COLOURS.index(colour),
        background=BACKGROUNDS.index(background),
        composed_views=composed_views,
        pool=pool,
        pool_images=32 if small else 4,
        **_numbers(numbers or {}),  # type: ignore[arg-type]
    )
