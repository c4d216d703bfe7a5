"""How a finished run's last model does on the test images: evaluation.json and confusion.png in the run folder.

The metrics are torchmetrics'. Accuracy by class is the share of a class's test images that are recognised (its recall);
balanced accuracy is its mean over the classes that have test images; macro F1 is the mean over the classes that
have any or are predicted for any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix, multiclass_f1_score

from federated.config.run import RunConfig
from federated.data import sets
from federated.results.classifier import load_classifier
from federated.server.output import file_names
from federated.server.output.run_folder import RunFolder
from fps_pretrain.common import plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked, write_text_atomically
from fps_pretrain.models.hardware import cpu_threads

MOST_NAMES = 30
"""Classes whose names still fit beside the picture."""

MOST_NUMBERS = 12
"""Classes whose shares can still be read in the picture."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of N images in K classes.

    Attributes:
        examples: N.
        accuracy: share of the images that are recognised.
        balanced_accuracy: mean of the classes' accuracies.
        macro_f1: mean of the classes' F1 scores.
        class_accuracy: by class name; None for a class without images.
        confusion: how many images of each class (row) are taken for each class (column), ``(K, K)``.
    """

    examples: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    class_accuracy: dict[str, float | None]
    confusion: list[list[int]]


def measure(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> Evaluation:
    """The metrics of predicted classes ``(N,)`` for labels ``(N,)``, N at least 1."""
    count = len(classes)
    matrix = multiclass_confusion_matrix(predicted, labels, count)
    of_class = multiclass_accuracy(predicted, labels, count, average="none")
    there = matrix.sum(1) > 0
    return Evaluation(
        examples=len(labels),
        accuracy=float(multiclass_accuracy(predicted, labels, count, average="micro")),
        balanced_accuracy=float(of_class[there].mean()),
        macro_f1=float(multiclass_f1_score(predicted, labels, count, average="macro")),
        class_accuracy={
            name: float(value) if has_images else None
            for name, value, has_images in zip(classes, of_class, there, strict=True)
        },
        confusion=matrix.tolist(),
    )


def evaluate(config: RunConfig) -> Path | None:
    """Write both files into the folder of a finished run that does not have them yet.

    Returns:
        The JSON file; None if the run has no final model, or one whose heads are the clients'.

    Raises:
        UserError: the data are not there any more or have changed, or another process is at it.
    """
    folder, file = config.folder, config.folder / file_names.EVALUATION
    if file.is_file():
        return file
    if not (folder / file_names.MODEL).is_file() or config.personal == "head":
        return None
    dataset = sets.load(config)
    if RunFolder(folder).load_state().data_digest != dataset.digest():
        raise UserError(
            f"{folder} was made with other data than {config.dataset} holds now: its test images are needed"
        )
    test = dataset.test
    with cpu_threads(config.threads):
        classifier = load_classifier(folder, device=config.device)
        predicted = torch.from_numpy(classifier(test.images, config.eval_batch_size).probabilities.argmax(1))
    found = measure(predicted, torch.from_numpy(test.labels), classifier.classes)
    with locked(folder):
        draw(folder / file_names.CONFUSION, np.array(found.confusion), classifier.classes, title=folder.name)
        write_text_atomically(file, json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    return file


def draw(path: Path, confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """Write a picture (PNG) of a confusion matrix ``(K, K)``, each row as shares of its class.

    Raises:
        OSError: the picture cannot be written.
    """
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 4 + 0.25 * min(len(classes), MOST_NAMES)
    figure = plots.new_figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="share of the class")
    axes.set(xlabel="predicted", ylabel="class")
    axes.set_title(plots.literal(title))
    if len(classes) <= MOST_NAMES:
        names = [plots.literal(name[:24]) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(classes) <= MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
    plots.save(figure, path)
