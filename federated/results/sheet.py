"""A picture of the images that a classifier is most and least certain of."""

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


def draw(path: Path, classifier: Classifier, paths: Sequence[Path], probabilities: NDArray[np.float32]) -> None:
    """Write the picture (PNG): above the most certain images, below the least certain, with what each is taken for.

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
    most = order[: COLUMNS * ROWS]
    least = order[::-1][: COLUMNS * ROWS]
    figure = plots.new_figure(COLUMNS * 1.3, ROWS * 2 * 1.6)
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1)))
    for half, title, chosen in ((above, "most certain", most), (below, "least certain", least)):
        half.suptitle(title)
        images = classifier.prepare([paths[index] for index in chosen])
        for axes in half.subplots(ROWS, COLUMNS).flat:
            axes.set_axis_off()
        for axes, index, image in zip(half.axes, chosen, images, strict=False):
            axes.imshow(image)
            name = classifier.classes[int(probabilities[index].argmax())]
            axes.set_title(plots.literal(f"{name[:16]}\n{certainty[index]:.1%}"), fontsize=8)
    plots.save(figure, path)
