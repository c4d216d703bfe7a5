"""Labelled images in memory, and labelled images that are found but not read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""``(N, S, S, 3)``, RGB in 0..255; or ``(H, W, 3)`` for one."""

Rows = NDArray[np.int64]
"""Positions in a table, ``(n,)``."""


@dataclass(frozen=True)
class ImageTable:
    """Labelled images of one size.

    Attributes:
        images: uint8 ``(N, S, S, 3)``, RGB in 0..255.
        labels: int64 ``(N,)``, positions in ``classes``.
        user_ids: who made each image, ``(N,)``; None where that is not known or was not asked for.
        classes: the names of the classes, where they are known.
    """

    images: Images
    labels: NDArray[np.int64]
    user_ids: NDArray[np.str_] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> ImageTable:
        """The examples at ``rows``, in that order."""
        user_ids = None if self.user_ids is None else self.user_ids[rows]
        return ImageTable(self.images[rows], self.labels[rows], user_ids, self.classes)

    def none(self) -> ImageTable:
        """No examples, of the same size and classes."""
        return self.take(np.empty(0, np.int64))


@dataclass(frozen=True)
class ImageIndex:
    """Labelled images whose pixels are still where they come from: what every reader returns.

    Attributes:
        labels: int64 ``(N,)``.
        pixels: takes rows and a size S; returns their images, uint8 ``(n, S, S, 3)``.
        user_ids: as in ``ImageTable``.
        classes: as in ``ImageTable``.
    """

    labels: NDArray[np.int64]
    pixels: Callable[[Rows, int], Images]
    user_ids: NDArray[np.str_] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, image_size: int, rows: Rows | None = None) -> ImageTable:
        """Read the images, or those at ``rows`` only, as squares of ``image_size`` pixels.

        Raises:
            UserError: an image cannot be read; the message names it.
        """
        rows = np.arange(len(self)) if rows is None else rows
        user_ids = None if self.user_ids is None else self.user_ids[rows]
        return ImageTable(self.pixels(rows, image_size), self.labels[rows], user_ids, self.classes)
