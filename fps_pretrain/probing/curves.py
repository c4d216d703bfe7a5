"""The log of a run, read from its CSV files, and its curves."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

from fps_pretrain.common import plots

_MOST_POINTS = 400

Rows = list[dict[str, float]]
"""Lines of a log: values by column."""

Series = tuple[list[float], list[float]]
"""Pairs seen, and values."""


class Panel(NamedTuple):
    """One plot: its title, the columns of the log that it shows, each with its name, and its range if it is fixed."""

    title: str
    columns: dict[str, str]
    limits: tuple[float, float] | None = None


CURVES = (
    Panel("loss", {"loss": "true pairs", "loss_shuffled": "shuffled pairs"}),
    Panel("embedding spread (1 even, 0 collapsed)", {"embedding_spread": "embeddings"}, (0.0, 1.1)),
    Panel("effective rank (1: all on a line)", {"embedding_rank": "embeddings", "feature_rank": "features"}),
    Panel("norm of the encoder's gradient", {"gradient_norm": "gradient"}),
    Panel("learning rate", {"lr": "learning rate"}),
    Panel("pairs per second", {"pairs_per_second": "rate"}),
    Panel("share of time spent waiting for data", {"data_wait": "waiting"}, (0.0, 1.0)),
)
"""What is drawn of the training log; a column that is not there is left out."""

PROBES = (
    Panel("kNN accuracy on {data}", {"knn_accuracy": "kNN"}, (0.0, 1.0)),
    Panel("linear probe accuracy on {data}", {"linear_accuracy": "linear"}, (0.0, 1.0)),
    Panel("pair retrieval", {"pair_retrieval": "pairs"}, (0.0, 1.0)),
)
"""What is drawn of the probes, with a line at the value of the random weights."""

_COLOURS = ("#1d5fa8", "#b8691b")


def _numbers(path: Path) -> tuple[Rows, int]:
    """The rows of a CSV of numbers, without empty cells, and how many cells are no numbers."""
    rows, unreadable = [], 0
    with path.open(newline="", errors="replace") as file:
        for line in csv.DictReader(file):
            row = {}
            for name, text in line.items():
                if not name or not text:
                    continue
                try:
                    row[name] = float(text)
                except ValueError:
                    unreadable += 1
            rows.append(row)
    return rows, unreadable


def read_log(folder: Path, name: str) -> tuple[Rows, int]:
    """A run's log ``name``, one row for each step, whatever interruptions have divided it into.

    Args:
        folder: the run folder.
        name: ``csv`` for the losses, ``probes`` for the probes.

    Returns:
        The rows, and how many cells were left out because they are no numbers: a kill in mid-line or a power failure
        leaves such cells.
    """
    rows: Rows = []
    unreadable = 0
    parts = [p for p in (folder / name).glob("version_*") if p.name.removeprefix("version_").isdigit()]
    for part in sorted(parts, key=lambda p: int(p.name.removeprefix("version_"))):
        try:
            lines, bad = _numbers(part / "metrics.csv")
        except (OSError, csv.Error):  # killed before there was a line, or no text at all
            continue
        unreadable += bad
        lines = [line for line in lines if "step" in line]
        if lines:
            rows = [row for row in rows if row["step"] < lines[0]["step"]] + lines
    return rows, unreadable


def _series(rows: Rows, name: str) -> Series:
    """A column over the pairs seen, thinned out by averaging neighbours."""
    points = [(row["pairs_seen"], row[name]) for row in rows if name in row and "pairs_seen" in row]
    points = [(x, y) for x, y in points if math.isfinite(y)]
    group = -(-len(points) // _MOST_POINTS) or 1
    chunks = [points[i : i + group] for i in range(0, len(points), group)]
    return [c[-1][0] for c in chunks], [sum(y for _, y in c) / len(c) for c in chunks]


def draw_curves(train: Rows, probes: Rows, data: str) -> bytes:
    """All curves as one PNG, those of the probes first.

    Args:
        train: the training log.
        probes: the log of the probes, the first row that of the random weights.
        data: name of the probe's images.
    """
    both = [(panel, _drawn(panel, probes), True) for panel in PROBES]
    both += [(panel, _drawn(panel, train), False) for panel in CURVES]
    panels = [(panel, lines, is_probe) for panel, lines, is_probe in both if lines]
    rows = -(-len(panels) // 2) or 1
    figure = plots.new_figure(11, 2.6 * rows)
    for k, (panel, lines, is_probe) in enumerate(panels):
        axes = figure.add_subplot(rows, 2, k + 1)
        start = probes[0].get(next(iter(panel.columns))) if is_probe else None
        for (name, (x, y)), colour in zip(lines.items(), _COLOURS, strict=False):
            axes.plot(x, y, marker="o" if len(x) <= 30 else None, markersize=3, color=colour, label=name)
        if start is not None:  # a linear probe may have been asked for in an earlier part of the run alone
            _draw_start(axes, start)
        if len(axes.lines) > 1:
            axes.legend(fontsize=8, frameon=False)
        axes.set_title(panel.title.format(data=plots.literal(data)), fontsize=10, loc="left")
        axes.set_xlabel("pairs seen", fontsize=8)
        axes.tick_params(labelsize=8)
        plots.style(axes)
        if panel.limits:
            axes.set_ylim(*panel.limits)
    return plots.png(figure, dpi=110)


def _drawn(panel: Panel, rows: Rows) -> dict[str, Series]:
    """The panel's curves that have points, by name."""
    series = {name: _series(rows, column) for column, name in panel.columns.items()}
    return {name: points for name, points in series.items() if points[0]}


def _draw_start(axes: Any, value: float) -> None:
    """A line at the value of the random weights, behind the curves."""
    axes.axhline(value, color="0.6", linewidth=1, linestyle="--", zorder=1, label="random weights")
