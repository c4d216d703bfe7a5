"""The curves of arms side by side, as a PNG; of clients that were measured too seldom for curves, the last states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.report.arms import Arm
from experiments.report.runs import CLIENT_KEYS, CLIENT_MEAN, CLIENT_WORST, TUNED_MEAN
from fps_pretrain.common import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_ROUNDS = 8
"""With fewer evaluated rounds than this, points are marked: they hardly make a line."""

SEED_OFFSET = 0.2
"""How far below its arm's mark a seed's dot lies; arms are 1 apart."""


def draw(arms: Sequence[Arm], title: str) -> bytes:
    """The picture of ``figure_of`` as a PNG file's bytes."""
    return plots.png(figure_of(arms, title), dpi=130)


def figure_of(arms: Sequence[Arm], title: str) -> Figure:
    """Draw test accuracy and test loss over the rounds and, where runs have them, the accuracies at the clients.

    Lines are means over seeds. A band reaches from the lowest to the highest seed; around the mean of the clients it is
    the standard deviation over the clients. Where no arm has a course at the clients, their last states are shown.

    Args:
        arms: the arms, in the order of their colours.
        title: heading of the picture.
    """
    at_clients = [arm for arm in arms if arm.client_rounds]
    judged = [arm for arm in arms if not arm.personal]  # the others have no model for the test set
    colours = {arm.label: f"C{number}" for number, arm in enumerate(arms)}
    ended = bool(at_clients) and all(len(arm.drawn(CLIENT_MEAN)[0]) == 1 for arm in at_clients)
    rows = bool(judged) + bool(at_clients)
    if ended:
        figure, panels = _rows_apart([4.1, _height(at_clients)][-rows:])
        _last_states(panels[-1], at_clients, colours)
    else:
        figure = plots.new_figure(11, 4.2 if rows == 1 else 8.2)
        panels = figure.subplots(rows, 2, squeeze=False)
        if at_clients:
            _over_rounds(panels[-1], at_clients, colours)
    if judged:
        _on_the_test_set(panels[0], judged, colours)
    if judged or not ended:  # else the arms' names stand beside their marks
        panels[0, 0 if judged else 1].legend(frameon=False)
    figure.suptitle(plots.literal(title))
    return figure


def _rows_apart(heights: Sequence[float]) -> tuple[Figure, np.ndarray]:
    """A figure with two panels in each row: what stands beside those of one row takes no room from another's."""
    figure = plots.new_figure(11, sum(heights))
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    return figure, np.stack([part.subplots(1, 2) for part in parts.flat])


def _on_the_test_set(panels: Sequence[Axes], arms: Sequence[Arm], colours: Mapping[str, str]) -> None:
    """Accuracy and loss over the rounds."""
    for axes, key in zip(panels, ("test_accuracy", "test_loss"), strict=True):
        for arm in arms:
            _seeds(axes, arm, key, colours[arm.label])
        _label(axes, key.replace("_", " "))
    # One round with an exploding loss would flatten all others.
    losses = np.concatenate([arm.values("test_loss").ravel() for arm in arms])
    finite = losses[np.isfinite(losses)]
    if len(finite):
        panels[1].set_ylim(0, 1.15 * float(np.quantile(finite, 0.95)))


def _over_rounds(panels: Sequence[Axes], arms: Sequence[Arm], colours: Mapping[str, str]) -> None:
    """Mean and worst tenth of the clients over the rounds."""
    for arm in arms:
        _clients(panels[0], arm, colours[arm.label])
        _seeds(panels[1], arm, CLIENT_WORST, colours[arm.label])
    _label(panels[0], "accuracy, mean of the clients ± std")
    _label(panels[1], "accuracy, worst tenth of clients")


def _label(axes: Axes, label: str) -> None:
    axes.set(xlabel="round", ylabel=label)
    plots.style(axes, integer_x=True)
    if "accuracy" in label:
        axes.set_ylim(bottom=0)


def _seeds(axes: Axes, arm: Arm, key: str, colour: str) -> None:
    """The mean over an arm's seeds, and a band from the lowest to the highest."""
    rounds, values = arm.drawn(key)
    axes.plot(rounds, values.mean(axis=0), color=colour, label=plots.wrapped(arm.title), marker=_marker(rounds))
    if len(arm.runs) > 1:
        _band(axes, rounds, values.min(axis=0), values.max(axis=0), colour)


def _clients(axes: Axes, arm: Arm, colour: str) -> None:
    """The mean over an arm's clients, and a band of one standard deviation over the clients; dashed: fine-tuned."""
    rounds = arm.drawn(CLIENT_MEAN)[0]
    mean, spread, tuned = (arm.drawn(key)[1].mean(axis=0) for key in (*CLIENT_KEYS[:2], TUNED_MEAN))
    axes.plot(rounds, mean, color=colour, marker=_marker(rounds))
    _band(axes, rounds, mean - spread, mean + spread, colour)
    axes.plot(rounds, tuned, color=colour, linestyle="--", marker=_marker(rounds))


def _band(axes: Axes, rounds: list[int], low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """A band, or a bar where there is a single round."""
    if len(rounds) == 1:
        axes.vlines(rounds, low, high, color=colour, alpha=0.3, linewidth=5)
    else:
        axes.fill_between(rounds, low, high, color=colour, alpha=0.18, linewidth=0)


def _marker(rounds: list[int]) -> str | None:
    if len(rounds) == 1:
        return "o"
    return "." if len(rounds) < FEW_ROUNDS else None


def _height(arms: Sequence[Arm]) -> float:
    """Inches that panels need for the names of so many arms."""
    lines = max(plots.wrapped(arm.title).count("\n") + 1 for arm in arms)
    return 1.1 + len(arms) * (0.35 + 0.17 * lines)


def _last_states(panels: Sequence[Axes], arms: Sequence[Arm], colours: Mapping[str, str]) -> None:
    """Draw the mean of the clients and their worst tenth after each arm's last round at its clients.

    A mark is the mean over an arm's seeds, small dots are the seeds. The bar of the mean is the standard deviation over
    the clients; a hollow mark is the mean of their fine-tuned copies.

    Args:
        panels: two axes side by side.
        arms: arms that were evaluated at their clients, from top to bottom.
        colours: the arms' colours, by label.
    """
    for place, arm in enumerate(arms):
        colour = colours[arm.label]
        mean, deviation, _ = (arm.values(key)[:, -1].mean() for key in CLIENT_KEYS)
        panels[0].plot([mean - deviation, mean + deviation], [place] * 2, color=colour, alpha=0.3, linewidth=5)
        for axes, key in zip(panels, (CLIENT_MEAN, CLIENT_WORST), strict=True):
            _marks(axes, arm.values(key)[:, -1], place, colour)
        tuned = arm.values(TUNED_MEAN)[:, -1].mean()
        panels[0].plot([tuned], [place], "o", color=colour, markerfacecolor="white", markersize=7)
    notes = ["small: each seed"] if any(len(arm.runs) > 1 for arm in arms) else []
    hollow = any(np.isfinite(arm.values(TUNED_MEAN)[:, -1]).any() for arm in arms)
    _label_state(panels[0], "mean of the clients ± std", [*notes, *(["hollow: fine-tuned"] if hollow else [])], arms)
    _label_state(panels[1], "worst tenth of clients", notes, arms)
    _name_rows(panels, arms, colours)


def _marks(axes: Axes, seeds: np.ndarray, place: int, colour: str) -> None:
    """The mean over seeds and, below it, each of several seeds."""
    axes.plot([seeds.mean()], [place], "o", color=colour, markersize=8)
    if len(seeds) > 1:
        axes.plot(seeds, [place + SEED_OFFSET] * len(seeds), "o", color=colour, markersize=3)


def _label_state(axes: Axes, what: str, notes: Sequence[str], arms: Sequence[Arm]) -> None:
    rounds = sorted({arm.client_rounds[-1] for arm in arms})
    label = f"accuracy after round {' or '.join(map(str, rounds))}, {what}"
    axes.set_xlabel("\n".join([label, *([f"({'; '.join(notes)})"] if notes else [])]))
    plots.style(axes)
    axes.set_xlim(0, max(1.05 * axes.dataLim.x1, 0.01))


def _name_rows(panels: Sequence[Axes], arms: Sequence[Arm], colours: Mapping[str, str]) -> None:
    """Write the arms' names, in their colours, beside the first of the panels."""
    for axes in panels:
        axes.set(yticks=range(len(arms)), ylim=(len(arms) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0, labelleft=False)
    panels[0].tick_params(axis="y", labelleft=True)
    panels[0].set_yticklabels([plots.wrapped(arm.title) for arm in arms])
    for text, arm in zip(panels[0].get_yticklabels(), arms, strict=True):
        text.set_color(colours[arm.label])
