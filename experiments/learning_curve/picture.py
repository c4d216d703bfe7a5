"""Accuracy against pairs seen, as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from experiments.learning_curve.values import RANDOM, TITLES, Value, means
from fps_pretrain.common import plots

_LABELS_BESIDE_A_PANEL = 15
"""How many lines of the legend are as high as a panel; more of them want another column."""


def longest_first(values: Sequence[Value]) -> list[str]:
    """The labels, those with the most budgets first: they are the long curves and get the strong colours."""
    budgets: dict[str, set[int]] = {}
    for value in values:
        budgets.setdefault(value.label, set()).add(value.pairs)
    return sorted(budgets.keys() - {RANDOM}, key=lambda label: (-len(budgets[label]), label))


def draw(values: Sequence[Value]) -> bytes:
    """Draw a panel for each measure: the mean at each budget, a band from lowest to highest, random weights as a line.

    Returns:
        A PNG file's bytes.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

    measures = [measure for measure in TITLES if any(value.measure == measure for value in values)]
    labels = longest_first(values)
    strong_and_pale = colormaps["tab20"].colors  # type: ignore[attr-defined]
    palette = (*strong_and_pale[::2], *strong_and_pale[1::2])
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / 2)
    legend_columns = math.ceil((len(labels) + 1) / (_LABELS_BESIDE_A_PANEL * rows))
    figure = plots.new_figure(2.6 * legend_columns + 4.2 * columns, 0.4 + 3.8 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes in grid[len(measures) :]:
        axes.set_axis_off()
    for position, (axes, measure) in enumerate(zip(grid, measures, strict=False)):
        for label, colour in zip(labels, itertools.cycle(palette)):
            budgets, middle, low, high = means(values, label, measure)
            if len(budgets):
                axes.plot(budgets, middle, marker="o", markersize=4, color=colour, label=plots.literal(label))
                axes.fill_between(budgets, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.vlines(budgets, low, high, color=colour, alpha=0.5, linewidth=1)
        _, middle, low, high = means(values, RANDOM, measure)
        if len(middle):
            axes.axhline(middle[0], color="0.3", linestyle="--", label="random weights")
            axes.axhspan(low[0], high[0], color="0.5", alpha=0.15, linewidth=0)
        if labels:
            axes.set_xscale("log")
            axes.xaxis.set(major_locator=LogLocator(subs=(1, 3)), minor_locator=NullLocator())
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(title=TITLES[measure], ylabel="" if position % 2 else "validation accuracy")
        axes.tick_params(labelbottom=True)
        if position >= len(measures) - columns:
            axes.set_xlabel("pairs seen")
        plots.style(axes)
        axes.yaxis.set(
            major_locator=MaxNLocator(nbins=8, steps=[1, 2, 5, 10]), major_formatter=PercentFormatter(1.0, decimals=0)
        )
    names = figure.axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside right upper", frameon=False, ncols=legend_columns)
    return plots.png(figure, dpi=130)
