"""The training page: one self-contained HTML file with a run's curves and the nearest neighbours of some views."""

from __future__ import annotations

import base64
import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fps_pretrain.common.files import write_text_atomically
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.pairs.gallery import neighbour_sheet, to_images

PAGE = "training.html"
ROWS, NEAREST = 10, 6
_MOST_POINTS = 400

Series = tuple[list[float], list[float]]
"""Pairs seen, and values."""

CURVES = (
    ("loss", "loss", None),
    ("embedding_spread", "embedding spread (1 even, 0 collapsed)", (0.0, 1.1)),
    ("lr", "learning rate", None),
    ("pairs_per_second", "pairs per second", None),
    ("data_wait", "share of time spent waiting for data", (0.0, 1.0)),
)
"""Columns of the log that are drawn when they are there, their titles, and their range if it is fixed."""

PROBES = (
    ("knn_accuracy", "kNN accuracy on {data}"),
    ("linear_accuracy", "linear probe accuracy on {data}"),
    ("pair_retrieval", "share of views that find their pair"),
)


@dataclass(frozen=True)
class Neighbours:
    """Pairs ``(2, N, 3, size, size)`` and, for each first view, second views from the nearest to the farthest."""

    views: np.ndarray
    order: np.ndarray

    @property
    def retrieval(self) -> float:
        """Share of first views whose nearest second view is that of their own pair."""
        return float((self.order[:, 0] == np.arange(len(self.order))).mean())

    def png(self) -> bytes:
        """A sheet of pairs, each followed by the second views nearest to its first; its own partner is framed."""
        count = min(ROWS, len(self.order))
        first, second = to_images(self.views[0, :count]), to_images(self.views[1])
        rows = [[first[i], second[i], *(second[k] for k in self.order[i, :NEAREST])] for i in range(count)]
        marked = [
            {2 + int(np.flatnonzero(o)[0])} if (o := self.order[i, :NEAREST] == i).any() else set()
            for i in range(count)
        ]
        done, data = cv2.imencode(".png", neighbour_sheet(rows, marked)[:, :, ::-1])
        assert done
        return data.tobytes()


def _numbers(path: Path) -> tuple[list[dict[str, float]], int]:
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


def read_log(folder: Path, name: str) -> tuple[list[dict[str, float]], int]:
    """A run's log ``name``, one row for each step, whatever interruptions have divided it into.

    Args:
        folder: the run folder.
        name: ``csv`` for the losses, ``probes`` for the probes.

    Returns:
        The rows, and how many cells were left out because they are no numbers: a kill in mid-line or a power failure
        leaves such cells.
    """
    rows: list[dict[str, float]] = []
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


def _series(rows: list[dict[str, float]], name: str) -> Series:
    """A column over the pairs seen, thinned out by averaging neighbours."""
    points = [(row["pairs_seen"], row[name]) for row in rows if name in row and "pairs_seen" in row]
    points = [(x, y) for x, y in points if math.isfinite(y)]
    group = -(-len(points) // _MOST_POINTS) or 1
    chunks = [points[i : i + group] for i in range(0, len(points), group)]
    return [c[-1][0] for c in chunks], [sum(y for _, y in c) / len(c) for c in chunks]


def draw_curves(train: list[dict[str, float]], probes: list[dict[str, float]], data: str) -> bytes:
    """All curves as one PNG, those of the probes first."""
    from matplotlib.figure import Figure

    panels: list[tuple[str, Series, tuple[float, float] | None, float | None]] = []
    for name, title in PROBES:
        if (series := _series(probes, name))[0]:
            panels.append((title.format(data=data), series, (0.0, 1.0), series[1][0]))
    for name, title, limits in CURVES:
        if (series := _series(train, name))[0]:
            panels.append((title, series, limits, None))
    rows = -(-len(panels) // 2) or 1
    figure = Figure(figsize=(11, 2.6 * rows), layout="constrained")
    for k, (title, (x, y), limits, start) in enumerate(panels):
        axes = figure.add_subplot(rows, 2, k + 1)
        if start is not None:
            axes.axhline(start, color="0.6", linewidth=1, linestyle="--")
            axes.annotate(
                "at the start",
                (1, start),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color="0.45",
            )
        axes.plot(x, y, marker="o" if len(x) <= 30 else None, markersize=3, color="#1d5fa8")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("pairs seen", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
        if limits:
            axes.set_ylim(*limits)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_page(
    folder: Path, config: PretrainConfig, neighbours: Neighbours, data: str, baseline: dict[str, float]
) -> Path:
    """Write ``training.html`` and ``metrics.csv``, the whole log in one table, into a run folder.

    Args:
        folder: the run folder, with the logs ``csv`` and ``probes``.
        config: the run's configuration.
        neighbours: pairs and what the encoder holds to be near them.
        data: name of the probe's images.
        baseline: the measures of the random weights.

    Returns:
        The page's path.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    train, bad_losses = read_log(folder, "csv")
    probes, bad_probes = read_log(folder, "probes")
    probes = [{"step": 0.0, "pairs_seen": 0.0, **baseline}, *probes]
    environment = Environment(loader=PackageLoader("fps_pretrain.probing"), autoescape=select_autoescape())
    last = {**(train[-1] if train else {}), **probes[-1]}
    total = config.total_steps * (config.batch_size or 0)
    text = environment.get_template("training.html").render(
        title=f"{config.method}, {config.arch}, {config.view_size} px",
        curves=base64.b64encode(draw_curves(train, probes, data)).decode(),
        sheet=base64.b64encode(neighbours.png()).decode(),
        last=last,
        total=total,
        data=data,
        retrieval=neighbours.retrieval,
        candidates=len(neighbours.order),
        nearest=NEAREST,
        baseline=baseline,
        settings={name: value for name, value in config.to_dict().items() if value is not None},
        probes=probes,
        unreadable=bad_losses + bad_probes,
    )
    write_text_atomically(folder / PAGE, text)
    _write_table(folder / "metrics.csv", [*train, *probes])
    return folder / PAGE


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """One CSV of the training log and the probes, in order of the steps."""
    columns = list(dict.fromkeys(["step", "pairs_seen", *(name for row in rows for name in row)]))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["step"]))
    write_text_atomically(path, buffer.getvalue())
