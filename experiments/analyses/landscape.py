"""Do two global models lie in one basin? ``python -m experiments.analyses.landscape RUN_A RUN_B [RUN_C]``.

Loss and accuracy of the models on the straight line between two runs' final models, on test and training examples. The
loss barrier is how far the loss on the line rises above the line between its ends (Entezari et al. 2022, "The Role of
Permutation Invariance in Linear Mode Connectivity of Neural Networks", section 2; Frankle et al. 2020, "Linear Mode
Connectivity and the Lottery Ticket Hypothesis", measure it from the mean of the ends). Without a barrier the two models
are linearly connected. With three runs also the loss on the plane through them (Garipov et al. 2018, "Loss Surfaces,
Mode Connectivity, and Fast Ensembling of DNNs", section 3). BatchNorm's statistics of each model are estimated anew on
training images.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from experiments.analyses import output
from experiments.report.runs import RunFolders, read_config
from fps_pretrain.common import cli, plots
from fps_pretrain.common.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PROG = "experiments.analyses.landscape"

SPLITS = ("test", "train")

MARGIN = 0.3
"""By how much of the triangle's extent the plane is shown around it."""

NAME_BOX = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
"""Behind a model's name: the plane is dark in places."""


@dataclass(frozen=True)
class LandscapeConfig:
    """Loss on the lines between runs' final models and, for three runs, on the plane through them."""

    runs: RunFolders
    """Folders of two finished runs or more of one data set and architecture; the first's data are used."""
    points: int = 11
    """Models on a line, both ends among them."""
    grid: int = 9
    """Models on a side of the plane, for exactly three runs; 0 for no plane."""
    limit: int | None = 2000
    """Use only so many test and training examples, drawn at random."""
    output: Path = output.FOLDER
    """Folder for landscape.csv, .txt and .png."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: fewer than two runs, or a number out of range.
        """
        if len(self.runs) < 2:
            raise UserError("name at least two run folders")
        if self.points < 3 or self.grid < 0 or (self.limit is not None and self.limit < 2):
            raise UserError("--points must be at least 3, --grid at least 0 and --limit at least 2")


class Evaluator(Protocol):
    """What lines and planes need of ``models.Evaluator``, whose module imports PyTorch."""

    def with_statistics(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights with BatchNorm's statistics taken from training images."""

    def evaluate(self, weights: Mapping[str, Tensor], split: str = "test") -> tuple[float, float]:
        """Mean loss and accuracy on ``test`` or ``train``."""


@dataclass(frozen=True)
class Line:
    """What lies between two models.

    Attributes:
        ends: names of the two runs.
        at: where on the line, from 0 to 1 ``(points,)``.
        loss: mean cross-entropy by split ``(points,)``.
        accuracy: by split ``(points,)``.
    """

    ends: tuple[str, str]
    at: np.ndarray
    loss: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]

    def barrier(self, split: str) -> float:
        """The largest rise of the loss above the straight line between its ends; 0 where it never rises."""
        return barrier(self.at, self.loss[split])


def barrier(at: np.ndarray, loss: np.ndarray) -> float:
    """The height of the barrier on a line: the largest ``loss - ((1 - at) loss[0] + at loss[-1])``, at least 0.

    It is infinite where a loss is no number.
    """
    height = np.max(loss - ((1 - at) * loss[0] + at * loss[-1]))
    return float("inf") if np.isnan(height) else float(height)


def between(
    evaluator: Evaluator, a: Mapping[str, Tensor], b: Mapping[str, Tensor], points: int, ends: tuple[str, str]
) -> Line:
    """Evaluate models on the line from ``a`` to ``b``."""
    from experiments.analyses.models import combine

    at = np.linspace(0, 1, points)
    found: list[dict[str, tuple[float, float]]] = []
    for t in at.tolist():
        weights = evaluator.with_statistics(combine([a, b], [1 - t, t]))
        found.append({split: evaluator.evaluate(weights, split) for split in SPLITS})
    loss, accuracy = ({split: np.array([one[split][i] for one in found]) for split in SPLITS} for i in (0, 1))
    return Line(ends, at, loss, accuracy)


@dataclass(frozen=True)
class Plane:
    """The test loss on the plane through three models.

    Attributes:
        x: along the first two models, in units of the distance of weights ``(grid,)``.
        y: at a right angle to it ``(grid,)``.
        loss: ``(grid, grid)``, y first.
        corners: where the three models lie ``(3, 2)``.
    """

    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray
    corners: np.ndarray


def plane(evaluator: Evaluator, models: Sequence[Mapping[str, Tensor]], grid: int) -> Plane:
    """Evaluate models on a grid that covers the triangle of three, and ``MARGIN`` around it.

    A point of the plane is a combination of the three whose coefficients add up to 1.
    """
    from experiments.analyses.models import combine

    first, second, third = (_vector(model) for model in models)
    u, v = second - first, third - first
    width = float(np.linalg.norm(u))
    along = float(v @ u) / max(width, 1e-12)
    height = float(np.sqrt(max(v @ v - along**2, 1e-24)))
    corners = np.array([[0, 0], [width, 0], [along, height]])
    low, high = corners.min(0), corners.max(0)
    x, y = (
        np.linspace(lo - MARGIN * (hi - lo), hi + MARGIN * (hi - lo), grid) for lo, hi in zip(low, high, strict=True)
    )
    loss = np.empty((grid, grid))
    for (row, at_y), (column, at_x) in itertools.product(enumerate(y), enumerate(x)):
        c = at_y / height
        b = (at_x - c * along) / max(width, 1e-12)
        weights = evaluator.with_statistics(combine(models, [1 - b - c, b, c]))
        loss[row, column] = evaluator.evaluate(weights)[0]
    return Plane(x, y, loss, corners)


def _vector(weights: Mapping[str, Tensor]) -> np.ndarray:
    """The parameters of a model as one vector; BatchNorm's statistics, which are estimated anew, are left out."""
    parts = [t for name, t in weights.items() if t.is_floating_point() and "running_" not in name]
    return np.concatenate([part.double().numpy().ravel() for part in parts])


def analyse(config: LandscapeConfig) -> output.Result:
    """Evaluate the line between every two runs and, for three, the plane.

    Raises:
        UserError: a run is not finished, its data are not there, or its data set or its model's tensors are not the
            first's.
    """
    from experiments.analyses import models as loading

    first, *others = (read_config(run) for run in config.runs)
    for run, other in zip(config.runs[1:], others, strict=True):
        if (other.dataset, other.image_size, other.personal) != (first.dataset, first.image_size, first.personal):
            raise UserError(f"{run} has other data or heads than {config.runs[0]}: compare runs of one data set")
    models = [loading.final_weights(run) for run in config.runs]
    for run, model in zip(config.runs, models, strict=True):
        if {n: t.shape for n, t in model.items()} != {n: t.shape for n, t in models[0].items()}:
            raise UserError(f"{run} has another model than {config.runs[0]}: compare runs of one architecture")
    evaluator = loading.Evaluator.of(first, config.limit)
    lines = [
        between(evaluator, models[i], models[j], config.points, (config.runs[i].name, config.runs[j].name))
        for i, j in itertools.combinations(range(len(models)), 2)
    ]
    surface = plane(evaluator, models, config.grid) if len(models) == 3 and config.grid else None
    rows: list[tuple[Any, ...]] = [
        (*line.ends, split, t, 0.0, line.loss[split][i], line.accuracy[split][i])
        for line in lines
        for split in SPLITS
        for i, t in enumerate(line.at.tolist())
    ]
    if surface is not None:
        for (j, y), (i, x) in itertools.product(enumerate(surface.y), enumerate(surface.x)):
            rows.append(("plane", "", "test", float(x), float(y), float(surface.loss[j, i]), ""))
    header = ("from", "to", "split", "at", "at_y", "loss", "accuracy")
    sentences = [_sentence(line) for line in lines]
    return output.Result("landscape", sentences, header, rows, _draw(lines, surface, [run.name for run in config.runs]))


def _sentence(line: Line) -> str:
    test, train = (line.barrier(split) for split in SPLITS)
    lowest = 100 * float(line.accuracy["test"].min())
    return (
        f"{line.ends[0]} to {line.ends[1]}: loss barrier {test:.3f} on test and {train:.3f} on training examples "
        f"(linear interpolation); lowest test accuracy on the way {lowest:.1f}%."
    )


def _draw(lines: Sequence[Line], surface: Plane | None, names: Sequence[str]) -> Figure:
    """Loss on the lines, test solid and training dashed; beside it the plane."""
    figure = plots.new_figure(11 if surface else 6.5, 4.5)
    panels = figure.subplots(1, 2 if surface else 1, squeeze=False)[0]
    for number, line in enumerate(lines):
        for split, dash in zip(SPLITS, ("-", "--"), strict=True):
            label = plots.literal(f"{line.ends[0]} to {line.ends[1]}") if split == "test" else None
            panels[0].plot(line.at, line.loss[split], dash, color=f"C{number}", label=label)
    panels[0].set_xlabel("position between the two models (0: first, 1: second)")
    panels[0].set_ylabel("loss (test solid, training dashed)")
    plots.style(panels[0])
    panels[0].legend(frameon=False, fontsize="small")
    if surface is not None:
        shown = np.log(surface.loss)
        image = panels[1].contourf(surface.x, surface.y, shown, levels=20, cmap="viridis_r")
        panels[1].plot(*surface.corners.T, "o", color="white", markeredgecolor="black")
        for name, (x, y) in zip(names, surface.corners, strict=True):
            right = x > surface.x.mean()  # towards the middle, so that a name does not run over the edge
            panels[1].annotate(
                plots.literal(name), (x, y), xytext=(-5 if right else 5, 5), textcoords="offset points",
                horizontalalignment="right" if right else "left", bbox=NAME_BOX,
            )  # fmt: skip
        panels[1].set(xlabel="distance in weights", ylabel="distance in weights", title="the plane through the models")
        figure.colorbar(image, ax=panels[1], label="log of the test loss")
    return figure


def main(config: LandscapeConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(LandscapeConfig, PROG)))
