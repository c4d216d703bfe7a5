"""A picture of the images that a classifier is most and least certain of, or of all of few images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federated.results.classifier import Classifier
from fps_pretrain.common import plots

COLUMNS = 8
ROWS = 2
"""Rows of images in each half."""
TITLE = 2
"""Columns that a title needs."""


def _parts(order: NDArray[np.intp]) -> list[tuple[str, NDArray[np.intp]]]:
    """The parts of the picture: a title and images; no image is in two. ``order`` has the most certain image first."""
    half = COLUMNS * ROWS
    if len(order) < 2 * half:
        return [("by certainty", order)]
    return [("most certain", order[:half]), ("least certain", order[::-1][:half])]


def draw(path: Path, classifier: Classifier, paths: Sequence[Path], probabilities: NDArray[np.float32]) -> None:
    """Write the picture (PNG): above the most certain images, below the least certain, with what each is taken for.

    Images that are too few for both halves are all shown once, the most certain first.

    Args:
        path: where the picture goes.
        classifier: what was asked.
        paths: the image files ``(N,)``.
        probabilities: what it said ``(N, classes)``.

    Raises:
        OSError: the picture cannot be written.
    """
    certainty = probabilities.max(1)
    order = np.argsort(-certainty, kind="stable")
    parts = _parts(order)
    rows, columns = -(-len(parts[0][1]) // COLUMNS), min(COLUMNS, len(order))
    figure = plots.new_figure(max(columns, TITLE) * 1.3, len(parts) * rows * 1.6)
    subfigures = np.ravel(np.asarray(figure.subfigures(len(parts), 1)))
    for part, (title, chosen) in zip(subfigures, parts, strict=True):
        part.suptitle(title)
        images = classifier.prepare([paths[index] for index in chosen])
        for axes in part.subplots(rows, columns, squeeze=False).flat:
            axes.set_axis_off()
        for axes, index, image in zip(part.axes, chosen, images, strict=False):
            axes.imshow(image)
            name = classifier.classes[int(probabilities[index].argmax())]
            axes.set_title(plots.literal(f"{name[:16]}\n{certainty[index]:.1%}"), fontsize=8)
    plots.save(figure, path)
