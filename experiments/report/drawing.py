"""The curves of arms side by side, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.report.runs import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(arms: Sequence[Arm], title: str) -> bytes:
    """Test accuracy and loss and, where runs have them, the accuracies at the clients, over the rounds, as a PNG.

    Lines are means over seeds. A band reaches from the lowest to the highest seed; around the mean of the clients it is
    the standard deviation over the clients.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    at_clients = [arm for arm in arms if arm.client_rounds]
    figure = Figure(figsize=(11, 8.2 if at_clients else 4.2), layout="constrained")
    panels = figure.subplots(2 if at_clients else 1, 2, squeeze=False)
    colours = {arm.label: f"C{number}" for number, arm in enumerate(arms)}
    for arm in arms:
        for axes, key in zip(panels[0], ("test_accuracy", "test_loss"), strict=True):
            _seeds(axes, arm, arm.rounds, key, colours[arm.label])
    for arm in at_clients:
        colour, rounds = colours[arm.label], arm.client_rounds
        mean, spread = (arm.values(f"client_accuracy_{name}").mean(axis=0) for name in ("mean", "std"))
        panels[1, 0].plot(rounds, mean, color=colour, marker=_marker(rounds))
        panels[1, 0].fill_between(rounds, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
        _seeds(panels[1, 1], arm, rounds, "client_accuracy_worst_tenth", colour)
    labels = ("test accuracy", "test loss", "accuracy, mean of the clients ± std", "accuracy, worst tenth of clients")
    for axes, label in zip(panels.flat, labels, strict=False):
        axes.set(xlabel="round", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if "accuracy" in label:
            axes.set_ylim(bottom=0)
    # A loss that explodes in one round would flatten all the rest.
    losses = np.concatenate([arm.values("test_loss").ravel() for arm in arms])
    finite = losses[np.isfinite(losses)]
    if len(finite):
        panels[0, 1].set_ylim(0, 1.15 * float(np.quantile(finite, 0.95)))
    panels[0, 0].legend(frameon=False)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _seeds(axes: Axes, arm: Arm, rounds: list[int], key: str, colour: str) -> None:
    """The mean over an arm's seeds, and a band from the lowest to the highest."""
    values = arm.values(key)
    name = f"{arm.label} ({len(arm.runs)} {'seed' if len(arm.runs) == 1 else 'seeds'})"
    axes.plot(rounds, values.mean(axis=0), color=colour, label=name, marker=_marker(rounds))
    if len(arm.runs) > 1:
        lowest, highest = values.min(axis=0), values.max(axis=0)
        axes.fill_between(rounds, lowest, highest, color=colour, alpha=0.18, linewidth=0)


def _marker(rounds: list[int]) -> str | None:
    """Points where there are too few to make out a line."""
    return "." if len(rounds) < 8 else None
