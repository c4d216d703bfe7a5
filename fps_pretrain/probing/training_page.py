"""The training page: one self-contained HTML file with a run's curves and the nearest neighbours of some views."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fps_pretrain.common.files import csv_text, write_text_atomically
from fps_pretrain.common.serve import RELOAD
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.pairs.gallery import neighbour_sheet, png, to_images
from fps_pretrain.probing.curves import draw_curves, read_log

PAGE = "training.html"
ROWS, NEAREST = 10, 6


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
        return png(neighbour_sheet(rows, marked))


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
        reload=RELOAD if last["pairs_seen"] < total else "",
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
    cells = ([row.get(name) for name in columns] for row in sorted(rows, key=lambda row: row["step"]))
    write_text_atomically(path, csv_text(columns, cells))
