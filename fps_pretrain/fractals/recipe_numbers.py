"""The numbers of the recipe: their defaults, allowed ranges and sources. Imports nothing heavy.

Sources of the defaults, as the fields name them:

- Anderson and Farrell: "Improving Fractal Pre-training", WACV 2022 (arXiv 2110.03091), section 3.2.
- Release: the code released with Chen et al., "On the Importance and Applicability of Pre-Training for Federated
  Learning", ICLR 2023 (arXiv 2206.11488; section 4 and appendix describe the method).

A pair of fields ``..._low`` and ``..._high`` holds the bounds of a uniform distribution: a value is drawn from
[low, high). An ``Interval`` is the range that a number may be set to, both ends included.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

from annotated_types import Interval

from fps_pretrain.common.errors import UserError

MAX_MAPS = 4
"""Most maps that a code can have."""

Probability = Annotated[float, Interval(ge=0.0, le=1.0)]
Share = Annotated[float, Interval(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Interval(ge=0.01, le=1.0)]
BlurSigma = Annotated[float, Interval(ge=0.01, le=100.0)]


class CodeNumbers(NamedTuple):
    """How codes are sampled: iterated function systems of n affine maps."""

    min_maps: Annotated[int, Interval(ge=2, le=MAX_MAPS)] = 2
    """Lower bound of n, the number of maps, which is uniform on the integers min_maps .. max_maps. Source: Release."""
    max_maps: Annotated[int, Interval(ge=2, le=MAX_MAPS)] = 4
    """Upper bound of n, included. Source: Release."""
    sigma_low: Annotated[float, Interval(ge=4.0, le=6.0)] = 5.0
    """Sets the lower bound of the sigma-factor (the sum of s1 + 2 s2 over the singular values s1 >= s2 of all maps):
    it is drawn from (sigma_low + n) / 2 to (sigma_high + n) / 2. No unit. Source: Anderson and Farrell."""
    sigma_high: Annotated[float, Interval(ge=4.0, le=6.0)] = 6.0
    """Sets the upper bound of the sigma-factor, (sigma_high + n) / 2. No unit. Source: Anderson and Farrell."""
    translation: Annotated[float, Interval(ge=1e-3, le=1e3)] = 1.0
    """Upper bound of both coordinates of a translation; the lower bound is its negative. In units of the plane. No
    image shows it, since every image is scaled to the extent of its points. Source: Anderson and Farrell."""


class ImageNumbers(NamedTuple):
    """How images of one code differ, and how an object is coloured."""

    jitter_low: Annotated[float, Interval(ge=0.0, le=10.0)] = 0.8
    """Lower bound of the factor by which jitter multiplies a map or its singular values. Source: Release."""
    jitter_high: Annotated[float, Interval(ge=0.0, le=10.0)] = 1.1
    """Upper bound of that factor. Source: Release."""
    cell_probability: Annotated[float, Interval(ge=0.01, le=1.0)] = 0.5
    """Probability that a cell of an image's 3 x 3 patch is on. Source: Release."""
    hue_range: Annotated[float, Interval(ge=0.0, le=255.0)] = 255.0
    """Upper bound of the hue shift of an object; the lower bound is 0. In steps of 2 degrees, OpenCV's 8-bit unit of
    hue. Source: Release."""
    saturation_low: Share = 0.3
    """Lower bound of the saturation of an object, from 0 (grey) to 1. Source: Release."""
    saturation_high: Share = 1.0
    """Upper bound of the saturation. Source: Release."""
    value_low: Share = 0.5
    """Lower bound of the value (HSV brightness) of an object, from 0 (black) to 1. Source: Release."""
    value_high: Share = 1.0
    """Upper bound of the value. Source: Release."""


class ComposeNumbers(NamedTuple):
    """How objects are put together to a view."""

    turn_probability: Probability = 0.5
    """Probability of each of transpose, vertical flip and horizontal flip of an object. Source: Release."""
    scale_low: PositiveShare = 0.45
    """Lower bound of the side of an object, as a share of the view's side. Source: Release."""
    scale_high: PositiveShare = 0.75
    """Upper bound of that share. Source: Release."""
    overhang: Share = 0.25
    """Upper bound of the part of an object outside the view, at each border, as a share of the object's side. Source:
    Release."""
    blur_probability: Probability = 0.5
    """Probability of a 3 x 3 Gaussian blur of a composed view. Source: Release."""
    blur_low: BlurSigma = 0.5
    """Lower bound of the sigma of that blur, in pixels. Source: Release."""
    blur_high: BlurSigma = 2.0
    """Upper bound of that sigma, in pixels. Source: Release."""


class ViewNumbers(NamedTuple):
    """How views are augmented, in the terms of torchvision's transforms."""

    crop_low: PositiveShare = 0.2
    """Lower bound of the area of a crop, as a share of the image's area (RandomResizedCrop). Source: Release."""
    crop_high: PositiveShare = 1.0
    """Upper bound of that share. Source: Release."""
    crop_ratio: Annotated[float, Interval(ge=1.0, le=10.0)] = 4.0 / 3.0
    """Upper bound of a crop's width over its height, which is log-uniform; the lower bound is its reciprocal. Source:
    torchvision's default."""
    mirror_probability: Probability = 0.5
    """Probability of a horizontal flip. Source: Release."""
    colour_probability: Probability = 0.8
    """Probability of the colour jitter: brightness, contrast, saturation and hue, in random order. Source: Release."""
    brightness: Share = 0.4
    """Half-width of the range of the brightness factor: from 1 - brightness to 1 + brightness. Source: Release."""
    contrast: Share = 0.4
    """Half-width of the range of the contrast factor around 1. Source: Release."""
    saturation: Share = 0.4
    """Half-width of the range of the saturation factor around 1. Source: Release."""
    hue: Annotated[float, Interval(ge=0.0, le=0.5)] = 0.1
    """Upper bound of the hue shift; the lower bound is its negative. In turns of the colour wheel. Source: Release."""
    grey_probability: Probability = 0.2
    """Probability that a view is turned to grey. Source: Release."""
    blur_probability: Probability = 0.5
    """Probability of a 5 x 5 Gaussian blur. Source: Release."""
    blur_low: BlurSigma = 0.1
    """Lower bound of the sigma of that blur, in pixels. Source: Release."""
    blur_high: BlurSigma = 2.0
    """Upper bound of that sigma, in pixels. Source: Release."""


DEFAULT_VIEW_NUMBERS = ViewNumbers()

GROUPS: dict[str, Any] = {
    "codes": CodeNumbers,
    "image": ImageNumbers,
    "compose": ComposeNumbers,
    "augment": ViewNumbers,
}
"""The numbers by the group that stands before the dot of a name such as ``compose.scale_low``."""

# What the bounds of a uniform distribution end with, the lower and the upper one.
_BOUNDS = (("_low", "_high"), ("min_", "max_"))


def allowed_ranges() -> dict[str, tuple[float, float]]:
    """The allowed range of every number, by names such as ``compose.scale_low``."""
    return {
        f"{group}.{name}": (hint.__metadata__[0].ge, hint.__metadata__[0].le)
        for group, numbers in GROUPS.items()
        for name, hint in get_type_hints(numbers, include_extras=True).items()
    }


def _check_range(name: str, value: float, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check one number.

    Raises:
        UserError: there is no such number, or it is out of range.
    """
    if name not in ranges:
        close = difflib.get_close_matches(name, ranges, 3) or list(ranges)
        raise UserError(f"the recipe has no number '{name}': did you mean {' or '.join(close[:3])}?")
    low, high = ranges[name]
    if not low <= value <= high:
        raise UserError(f"{name} must be in {low:g} .. {high:g}, got {value:g}")
    if name.endswith("_maps") and value != int(value):
        raise UserError(f"{name} must be a whole number, got {value:g}")


def _check_order(values: Mapping[str, float]) -> None:
    """Check that no lower bound exceeds its upper bound.

    Raises:
        UserError: one does.
    """
    for name, low in values.items():
        for lower, upper in _BOUNDS:
            other = name.replace(lower, upper)
            if other != name and low > values[other]:
                raise UserError(f"{name} ({low:g}) must not exceed {other} ({values[other]:g})")


def changed_numbers(changes: Mapping[str, float]) -> dict[str, Any]:
    """The groups of numbers with some of them changed.

    Args:
        changes: new values by group and name, such as ``{"compose.scale_low": 0.3}``.

    Returns:
        One instance of each class in ``GROUPS``, by group.

    Raises:
        UserError: there is no such number, it is out of range, or a lower bound exceeds its upper bound.
    """
    ranges = allowed_ranges()
    for name, value in changes.items():
        _check_range(name, value, ranges)
    groups = {}
    for group, numbers in GROUPS.items():
        values = {name.partition(".")[2]: value for name, value in changes.items() if name.startswith(f"{group}.")}
        groups[group] = numbers(**{n: int(v) if n.endswith("_maps") else float(v) for n, v in values.items()})
    _check_order({f"{group}.{name}": v for group, numbers in groups.items() for name, v in numbers._asdict().items()})
    return groups
