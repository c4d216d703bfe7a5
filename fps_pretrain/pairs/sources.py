"""Where pairs come from: the protocol of a source, and pairs of fractals made by compiled code."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fps_pretrain.fractals.batch import fractal_batch
from fps_pretrain.fractals.code_file import codes_digest
from fps_pretrain.fractals.codes import SEEDED_CODES, Codes
from fps_pretrain.fractals.recipe import Recipe, describe

MadeBy = Literal["threads", "processes", "device"]


class PairSource(Protocol):
    """Where pairs come from."""

    size: int
    """Side of a view in pixels."""

    made_by: MadeBy
    """What makes batches in parallel: threads, processes or the training device."""

    def batch(self, epoch: int, first: int, count: int, threads: int = 1) -> Tensor:
        """Make consecutive pairs of an epoch.

        Args:
            epoch: the epoch, from 0.
            first: index of the first pair in the epoch.
            count: number of pairs.
            threads: number of threads that may share the work; it does not change the pairs.

        Returns:
            ``(2, count, 3, size, size)``, float32, normalised: first views, then second views.
        """

    def description(self) -> dict[str, Any]:
        """What a checkpoint records of the source: plain values, from which the same pairs can be made."""


class FractalSource:
    """Pairs of fractals, keyed by (seed, epoch, index), made by compiled code in threads.

    Args:
        recipe: what pairs look like.
        seed: fixes codes and pairs.
        codes: codes of a file, or ``SEEDED_CODES``.
    """

    made_by: MadeBy = "threads"

    def __init__(self, recipe: Recipe, seed: int, codes: Codes = SEEDED_CODES) -> None:
        self.recipe = recipe
        self.seed = seed
        self.codes = codes
        self.size = recipe.size

    def batch(self, epoch: int, first: int, count: int, threads: int = 1) -> Tensor:
        """See ``PairSource``."""
        out = np.empty((2, count, 3, self.size, self.size), np.float32)
        fractal_batch(self.recipe, self.seed, epoch, first, out, codes=self.codes, threads=threads)
        return torch.from_numpy(out)

    def description(self) -> dict[str, Any]:
        """The recipe, and a digest of the codes if they come from a file."""
        codes = {"codes": codes_digest(*self.codes)} if self.codes.sizes.size else {}
        return {**describe(self.recipe), **codes, "source": "fractals"}
