"""The memory in which views are augmented."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.compiled import compiled


class ViewScratch(NamedTuple):
    """Scratch memory of one thread for augmenting views of ``size`` pixels.

    Attributes:
        near: ``(size,)``, uint32, the source column left of each output column.
        far: ``(size,)``, uint32, the source column right of it.
        weight: ``(size,)``, uint64, the weight of ``far`` in units of 2^-13.
        lines: ``(6, size)``, float32, two resized lines of the source, channel by channel.
        spread: ``(width,)``, uint64, a line of the source in spread colours.
        plane: ``(size^2,)``, float32, a channel between the two passes of the blur.
        sums: ``(size,)``, float32, column sums.
    """

    near: np.ndarray
    far: np.ndarray
    weight: np.ndarray
    lines: np.ndarray
    spread: np.ndarray
    plane: np.ndarray
    sums: np.ndarray


@compiled()
def empty_view_scratch(width: int, size: int) -> ViewScratch:
    """Scratch memory for views of ``size`` pixels of images up to ``width`` pixels wide."""
    return ViewScratch(
        np.empty(size, np.uint32),
        np.empty(size, np.uint32),
        np.empty(size, np.uint64),
        np.empty((6, size), np.float32),
        np.empty(width, np.uint64),
        np.empty(size * size, np.float32),
        np.empty(size, np.float32),
    )
