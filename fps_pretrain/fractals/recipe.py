"""The recipe: the options that decide what a pair looks like, checked. Imports nothing heavy.

The recipe of Chen et al. (ICLR 2023, arXiv 2206.11488) is the default. ``recipe_numbers`` holds its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fps_pretrain.common.errors import UserError
from fps_pretrain.fractals.recipe_numbers import (
    CodeNumbers,
    ComposeNumbers,
    ImageNumbers,
    ViewNumbers,
    changed_numbers,
)

COLOURS = ("random", "jitter")
COLOUR_RANDOM, COLOUR_JITTER = range(2)
JITTERS = ("none", "basic", "fractaldb", "svd", "sval")
JITTER_NONE, JITTER_BASIC, JITTER_FRACTALDB, JITTER_SVD, JITTER_SVAL = range(5)
BACKGROUNDS = ("black", "diamond-square")
MAX_OBJECTS = 16
MIN_SIZE, MAX_SIZE = 16, 512
MAX_POOL = 1_048_576


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
        **changed_numbers(numbers or {}),
    )
