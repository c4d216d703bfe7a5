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
RENDERS = ("fresh", "shared")
RENDERS_FRESH, RENDERS_SHARED = range(2)
MAX_OBJECTS = 16
MIN_SIZE, MAX_SIZE = 16, 512
MAX_POOL = 1_048_576


class Recipe(NamedTuple):
    """What pairs look like, in a form that compiled code takes. ``make_recipe`` builds it.

    Defaults are those of the code released with Chen et al. (ICLR 2023), but for ``pool`` and ``renders``.
    """

    size: int
    """Side of a view, 16 to 512 pixels. Default: 32; 224 with an encoder of torchvision's."""
    num_classes: int
    """Number of codes, at least ``max_objects``. Default: 100,000."""
    min_objects: int
    """Lower bound of the number of objects in a view, which is uniform on the integers min_objects .. max_objects; at
    least 1. Default: 2."""
    max_objects: int
    """Upper bound of the number of objects, included; at most 16. Default: 2 up to 64 px, 5 above."""
    points: int
    """Points of the chaos game for one image. 1,000 at 32 px and 100,000 at 224 px, in proportion to the pixels of the
    grey image at other sizes."""
    render_side: int
    """Side of a grey image in pixels: that of the view up to 64 px, half of it above."""
    jitter: int
    """How a code varies from image to image, an index into ``JITTERS``. Default: basic."""
    colour: int
    """How objects are coloured, an index into ``COLOURS``. Default: random."""
    background: int
    """What is behind the objects, an index into ``BACKGROUNDS``. Default: black."""
    composed_views: int
    """2: each view is composed by itself. 1: both views are augmentations of one composed image, the paper's ablation.
    Default: 2."""
    pool: int
    """Number of pairs in a block that shares images, 0 or ``max_objects`` to 1,048,576; 0 renders every object of every
    view by itself. Default: 0. The release has a pool; 1,024 is about it (see ``compose.choose``)."""
    pool_images: int
    """Most images of a class in such a block: 32 up to 64 px, 4 above."""
    renders: int
    """How many images a class has without a pool, an index into ``RENDERS``. fresh: one for every object of every view.
    shared: one for every ``num_classes`` pairs of an epoch, so that both views of a pair show the same image, as nearly
    always in the release. Default: fresh."""
    codes: CodeNumbers
    """How codes are sampled."""
    image: ImageNumbers
    """How images of a code vary, and how they are coloured."""
    compose: ComposeNumbers
    """How objects are put together to a view."""
    augment: ViewNumbers
    """How views are augmented."""


def describe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values; the groups of numbers are dictionaries.

    ``renders`` is left out where it is ``fresh``: recipes described before the option existed are the same recipes.
    """
    values = {name: v._asdict() if hasattr(v, "_asdict") else v for name, v in recipe._asdict().items()}
    return values if recipe.renders else {name: v for name, v in values.items() if name != "renders"}


def usual_objects(size: int) -> tuple[int, int]:
    """Fewest and most objects in a view of ``size`` pixels, the paper's."""
    return (2, 2) if size <= 64 else (2, 5)


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
    renders: str = "fresh",
    numbers: Mapping[str, float] | None = None,
) -> Recipe:
    """The paper's recipe for views of ``size`` pixels, with its options.

    Up to 64 px, images are rendered at the size of the view with about 1 point for each pixel (1,000 points at 32 px),
    and a view holds 2 objects. Above, images are rendered at half that size with 8 points for each pixel (100,000 at
    224 px), and a view holds 2 to 5 objects.

    Args:
        size: side of a view in pixels, 16 to 512.
        num_classes: number of codes, at least as many as objects.
        objects: fewest and most objects in a view; None for the paper's.
        colour: ``random``, or ``jitter``: a class has the same hue shift in both views.
        jitter: how a code varies from image to image: ``none``, ``basic``, ``fractaldb``, ``svd`` or ``sval``.
        background: ``black`` or ``diamond-square``.
        composed_views: 2, or 1 to make both views of one composed image.
        pool: pairs in a block that shares images, 1,024 for about what the authors' release does; 0 for no pool.
        renders: ``fresh``, or ``shared``: both views of a pair show the same image of a class. Without a pool only.
        numbers: other numbers of the recipe by group and name, such as ``{"compose.scale_low": 0.3}``.

    Raises:
        UserError: a value is out of range or not one of the names.
    """
    small = size <= 64
    low, high = objects or usual_objects(size)
    for value, name, choices in (
        (colour, "colour", COLOURS),
        (jitter, "jitter", JITTERS),
        (background, "background", BACKGROUNDS),
        (renders, "renders", RENDERS),
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
    if pool and renders != "fresh":
        raise UserError("renders must be fresh with a pool, which shares images by itself")
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
        renders=RENDERS.index(renders),
        **changed_numbers(numbers or {}),
    )
