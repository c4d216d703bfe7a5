"""The curves of arms side by side, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.report.arms import Arm
from experiments.report.runs import TUNED_MEAN
from experiments.report.statistics import counted
from fps_pretrain.common import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW_ROUNDS = 8
"""With fewer evaluated rounds than this, points are marked: they hardly make a line."""


def draw(arms: Sequence[Arm], title: str) -> bytes:
    """Draw test accuracy and test loss over the rounds and, where runs have them, the accuracies at the clients.

    Lines are means over seeds. A band reaches from the lowest to the highest seed; around the mean of the clients it is
    the standard deviation over the clients.

    Args:
        arms: the arms, in the order of their colours.
        title: heading of the picture.

    Returns:
        A PNG file's bytes.
    """
    at_clients = [arm for arm in arms if arm.client_rounds]
    judged = [arm for arm in arms if not arm.personal]  # the others have no model for the test set
    rows = bool(judged) + bool(at_clients)
    figure = plots.new_figure(11, 4.2 if rows == 1 else 8.2)
    panels = figure.subplots(rows, 2, squeeze=False)
    colours = {arm.label: f"C{number}" for number, arm in enumerate(arms)}
    for arm in judged:
        for axes, key in zip(panels[0], ("test_accuracy", "test_loss"), strict=True):
            _seeds(axes, arm, arm.rounds, key, colours[arm.label])
    for arm in at_clients:
        _clients(panels[-1, 0], arm, colours[arm.label])
        _seeds(panels[-1, 1], arm, arm.client_rounds, "client_accuracy_worst_tenth", colours[arm.label])
    labels = ["test accuracy", "test loss"] if judged else []
    labels += ["accuracy, mean of the clients ± std", "accuracy, worst tenth of clients"]
    for axes, label in zip(panels.flat, labels, strict=False):
        axes.set(xlabel="round", ylabel=label)
        plots.style(axes, integer_x=True)
        if "accuracy" in label:
            axes.set_ylim(bottom=0)
    # One round with an exploding loss would flatten all others.
    losses = np.concatenate([arm.values("test_loss").ravel() for arm in judged] or [np.empty(0)])
    finite = losses[np.isfinite(losses)]
    if len(finite):
        panels[0, 1].set_ylim(0, 1.15 * float(np.quantile(finite, 0.95)))
    panels[0, 0 if judged else 1].legend(frameon=False)
    figure.suptitle(plots.literal(title))
    return plots.png(figure, dpi=130)


def _seeds(axes: Axes, arm: Arm, rounds: list[int], key: str, colour: str) -> None:
    """The mean over an arm's seeds, and a band from the lowest to the highest."""
    values = arm.values(key)
    name = plots.literal(f"{arm.label} ({counted(len(arm.runs))})")
    axes.plot(rounds, values.mean(axis=0), color=colour, label=name, marker=_marker(rounds))
    if len(arm.runs) > 1:
        lowest, highest = values.min(axis=0), values.max(axis=0)
        axes.fill_between(rounds, lowest, highest, color=colour, alpha=0.18, linewidth=0)


def _clients(axes: Axes, arm: Arm, colour: str) -> None:
    """The mean over an arm's clients, and a band of one standard deviation over the clients; dashed: fine-tuned."""
    rounds = arm.client_rounds
    mean, spread = (arm.values(f"client_accuracy_{name}").mean(axis=0) for name in ("mean", "std"))
    axes.plot(rounds, mean, color=colour, marker=_marker(rounds))
    axes.fill_between(rounds, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.plot(rounds, arm.values(TUNED_MEAN).mean(axis=0), color=colour, linestyle="--", marker=_marker(rounds))


def _marker(rounds: list[int]) -> str | None:
    return "." if len(rounds) < FEW_ROUNDS else None
