"""Runs side by side as one HTML page, a PNG and two CSV files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.report.picture import draw
from experiments.report.runs import Run, group
from experiments.report.statistics import Interval
from experiments.report.summary import Summary, default_targets, summarise
from experiments.report.tables import rounds_csv, summary_csv
from federated.config.run import FREE_ON_RESUME
from fps_pretrain.common.files import write_bytes_atomically, write_text_atomically

PAGE, CURVES, TABLE, ROUNDS = "index.html", "curves.png", "summary.csv", "rounds.csv"


def write(runs: Sequence[Run], output: Path, targets: Sequence[float], title: str, command: str) -> list[Summary]:
    """Write the page, the PNG and the two CSV files into ``output``.

    Args:
        runs: the runs; the first one's arm is the baseline that the others are paired with, seed by seed.
        output: a folder, made if need be; earlier reports in it are replaced.
        targets: test accuracies whose first round is reported; empty for ``TARGET_SHARES`` of the baseline's best.
        title: heading of page and picture.
        command: what was typed, shown on the page.

    Returns:
        What the page's table shows.

    Raises:
        UserError: the runs of an arm were evaluated after different rounds.
    """
    arms = group(runs)
    summaries = summarise(arms, targets or default_targets(arms[0]))
    picture = draw(arms, title)
    page = _render(
        title=title,
        command=command,
        picture=base64.b64encode(picture).decode(),
        summaries=summaries,
        targets=list(summaries[0].rounds_to),
        shared=_shared_options(runs),
        seeds=sorted({run.config.seed for run in runs}),
        percent=percent,
        interval=points,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(output / CURVES, picture)
    write_text_atomically(output / TABLE, summary_csv(summaries))
    write_text_atomically(output / ROUNDS, rounds_csv(arms))
    write_text_atomically(output / PAGE, page)
    return summaries


def _render(**values: object) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    loader = PackageLoader("experiments.report")
    environment = Environment(loader=loader, autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(**values)


def _shared_options(runs: Sequence[Run]) -> dict[str, Any]:
    """The options that all runs have in common, by name."""
    return {
        name: value
        for name, value in asdict(runs[0].config).items()
        if value is not None
        and name not in ("init", "seed", *FREE_ON_RESUME)
        and all(getattr(run.config, name) == value for run in runs)
    }


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage with one decimal; a dash for NaN."""
    return "–" if value != value else f"{100 * value:.1f}%"


def points(interval: Interval | None) -> str:
    """A difference in percentage points, with its interval where there is one."""
    if interval is None:
        return "–"
    mean, low, high = (f"{100 * value:+.1f}" for value in interval[:3])
    return f"{mean} [{low}, {high}]" if interval.pairs > 1 else mean
