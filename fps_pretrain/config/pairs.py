"""Options of fractal pairs, which training and the preview share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import check_output
from fps_pretrain.common.options import Option, OptionSet
from fps_pretrain.fractals.recipe import MAX_POOL, MAX_SIZE, MIN_SIZE, Recipe, make_recipe

MAX_CLASSES = 100_000_000
"""Most fractal codes: a thousand times the paper's."""


def read_numbers(flag: str, texts: tuple[str, ...]) -> dict[str, float]:
    """Numbers given as ``NAME=VALUE``.

    Raises:
        UserError: one is not ``NAME=NUMBER``; the message names the flag.
    """
    numbers = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise UserError(f"{flag} takes NAME=NUMBER, got '{text}'") from None
        if not math.isfinite(numbers[name]):
            raise UserError(f"{flag} {text} is not a finite number")
    return numbers


@dataclass(frozen=True)
class PairOptions(OptionSet):
    """Pairs"""

    size: Annotated[int, Ge(MIN_SIZE), Le(MAX_SIZE)] | None = None
    """Side of a view in pixels (default: the paper's, 32, or 224 with an encoder of torchvision's)."""
    classes: Annotated[
        Annotated[int, Ge(1), Le(MAX_CLASSES)] | None, Option(why="no run of 10^8 pairs would see more")
    ] = None
    """Number of fractal codes (default: 100,000, or all of --codes)."""
    codes: Path | None = None
    """File of codes (.npz) to take instead of those of the seed."""
    objects: tuple[int, int] | None = None
    """Fewest and most objects in a view (default: the paper's, 2 2 up to 64 px, 2 5 above)."""
    colour: Literal["random", "jitter"] = "random"
    """jitter gives a class the same hue shift in both views. Views of one composed image have that anyway: there jitter
    only draws other hues."""
    jitter: Literal["none", "basic", "fractaldb", "svd", "sval"] = "basic"
    """How a code varies from image to image."""
    background: Literal["black", "diamond-square"] = "black"
    """What is behind the objects."""
    composed_views: Literal[1, 2] | None = None
    """1 makes both views of one composed image, the paper's ablation (default: 2; 1 for moco in short runs)."""
    pool: Annotated[int, Ge(0), Le(MAX_POOL)] = 0
    """Pairs that share a pool of images, 1024 for about what the released code does; 0 renders every object of every
    view afresh."""
    renders: Literal["fresh", "shared"] | None = None
    """shared shows the same image of a class in both views, as the released code nearly always does; fresh renders one
    for each (default: fresh; shared with the preset paper)."""
    recipe_numbers: tuple[str, ...] = ()
    """Any other number of the recipe as NAME=VALUE, such as compose.scale_low=0.3 augment.grey_probability=0;
    docs/options.md lists them."""
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Fixes codes and pairs (and, in training, the initial weights)."""

    def __post_init__(self, filled_in: tuple[tuple[str, Any], ...]) -> None:
        """Check the options, alone and together.

        Raises:
            UserError: a value is out of range; the message names the flag.
        """
        super().__post_init__(filled_in)
        self.recipe()
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """Refuse what would do nothing beside another option."""
        names = [text.partition("=")[0] for text in self.recipe_numbers]
        of_codes = [name for name in names if name.startswith("codes.")]
        if self.codes is not None and of_codes:
            given = ", ".join(of_codes)
            raise UserError(f"--recipe-numbers {given} changes the seed's codes; with --codes it would do nothing")
        factors = [name for name in names if name in ("image.jitter_low", "image.jitter_high")]
        if self.jitter in ("none", "fractaldb") and factors:
            given = ", ".join(factors)
            raise UserError(f"--recipe-numbers {given} would do nothing with --jitter {self.jitter}")

    @property
    def view_size(self) -> int:
        """The side of a view in pixels, given or not."""
        return self.size if self.size is not None else 32

    @property
    def usual_classes(self) -> int:
        """How many codes there are to draw from where no number is given.

        Raises:
            UserError: the file of codes is none.
        """
        if self.codes is None:
            return 100_000
        from fps_pretrain.fractals.code_file import count_codes

        return count_codes(self.codes)

    @property
    def num_classes(self) -> int:
        """How many codes there are to draw from.

        Raises:
            UserError: the file of codes is none, or holds fewer than asked for.
        """
        if self.classes is None:
            return self.usual_classes
        if self.codes is not None and self.classes > (held := self.usual_classes):
            raise UserError(f"--classes {self.classes}: {self.codes} holds {held} codes")
        return self.classes

    def recipe(self) -> Recipe:
        """The recipe in the form that compiled code takes."""
        return make_recipe(
            self.view_size,
            num_classes=self.num_classes,
            objects=self.objects,
            colour=self.colour,
            jitter=self.jitter,
            background=self.background,
            composed_views=self.composed_views or 2,
            pool=self.pool,
            renders=self.renders or "fresh",
            numbers=read_numbers("--recipe-numbers", self.recipe_numbers),
        )


@dataclass(frozen=True)
class PreviewConfig(PairOptions):
    """Write random fractal pairs into a folder: single images and a labelled contact sheet."""

    output: Path = Path("preview")
    """Folder to write into; it must be new or empty."""
    pairs: Annotated[int, Ge(1), Le(1000)] = 50
    """Number of pairs."""
    augment: bool = True
    """Show the views as the network sees them; --no-augment shows them as composed."""

    def __post_init__(self, filled_in: tuple[tuple[str, Any], ...]) -> None:
        """Check the options, alone and together.

        Raises:
            UserError: a value is out of range, or nothing can be written to the output; the message names the flag.
        """
        super().__post_init__(filled_in)
        check_output("--output", self.output)
