"""Runs side by side as one HTML page, a PNG and CSV files. The page needs no network."""

from __future__ import annotations

import base64
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.report.arms import Arm, group
from experiments.report.csv_files import clients_csv, rounds_csv, summary_csv
from experiments.report.curves import curves
from experiments.report.headline import cautions, sentences
from experiments.report.picture import draw
from experiments.report.runs import Run
from experiments.report.statistics import percent, points
from experiments.report.summary import Summary, default_targets, summarise
from federated.config.run import MAY_DIFFER_ON_RESUME
from federated.server.output import file_names
from fps_pretrain.common import environment
from fps_pretrain.common.files import write_bytes_atomically, write_text_atomically
from fps_pretrain.common.serve import RELOAD

PAGE, CURVES, TABLE, ROUNDS, CLIENTS = "index.html", "curves.png", "summary.csv", "rounds.csv", "clients.csv"

ANALYSES = "analyses"
"""Folder beside the page in which ``experiments.analyses`` leave NAME.txt and NAME.png to be shown on it."""

_INTERVAL = re.compile(r"\[[+-][\d.]+, [+-][\d.]+\]")
"""How ``statistics.points`` writes an interval."""

MOST_PARTITIONS = 4
"""Pictures of different partitions that the page shows at most."""


def write(
    runs: Sequence[Run],
    output: Path,
    targets: Sequence[float],
    title: str,
    command: str,
    *,
    unfinished: bool = False,
    failed: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> list[Summary]:
    """Write the page, the PNG and the CSV files into ``output``.

    Args:
        runs: the runs; the first one's arm is the baseline that the others are paired with, seed by seed.
        output: a folder, made if need be; earlier reports in it are replaced.
        targets: test accuracies whose first round is reported; empty for ``TARGET_SHARES`` of the baseline's best.
        title: heading of page and picture.
        command: what was typed, shown on the page.
        unfinished: more runs follow: the page says so and loads itself again.
        failed: names of runs that should be here; the page says that they are not.
        notes: cautions beside those that follow from the runs, such as ``comparison.tuning``'s.

    Returns:
        What the page's table shows.

    Raises:
        UserError: the runs of an arm were evaluated after different rounds.
    """
    arms = group(runs)
    summaries = summarise(arms, targets or default_targets(arms))
    picture = draw(arms, title)
    analyses = _analyses(output / ANALYSES, runs)
    page = _render(
        title=title,
        reload=RELOAD if unfinished else "",
        headline=sentences(summaries),
        cautions=[*cautions(summaries, _intervals(analyses), failed), *notes],
        curves=curves(arms),
        picture=base64.b64encode(picture).decode(),
        summaries=summaries,
        targets=list(summaries[0].rounds_to),
        partitions=_partitions(arms),
        analyses=analyses,
        command=command,
        again=[f"python run_fl.py --config {shlex.quote(str(arm.runs[0].folder / 'config.yaml'))}" for arm in arms],
        shared=_shared_options(runs),
        machines=_machines(runs),
        seeds=sorted({run.config.seed for run in runs}),
        percent=percent,
        interval=points,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(output / CURVES, picture)
    write_text_atomically(output / TABLE, _writable(summary_csv(summaries)))
    write_text_atomically(output / ROUNDS, _writable(rounds_csv(arms)))
    if any(arm.client_rounds for arm in arms):
        write_text_atomically(output / CLIENTS, _writable(clients_csv(arms)))
    else:  # of an earlier report
        (output / CLIENTS).unlink(missing_ok=True)
    write_text_atomically(output / PAGE, _writable(page))
    return summaries


def say(
    summaries: Sequence[Summary],
    output: Path,
    runs: Sequence[Run],
    failed: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print on stderr what the page in ``output`` begins with; the arguments are those of ``write`` and its result."""
    for summary in summaries:
        print(f"{summary.arm}: final {summary.final:.1%}, best {summary.best:.1%}", file=sys.stderr)
    others = _intervals(_analyses(output / ANALYSES, runs))
    for line in (*sentences(summaries), *cautions(summaries, others, failed), *notes):
        print(line, file=sys.stderr)
    print(f"wrote {output / PAGE} and {output / CURVES}", file=sys.stderr)


def _render(**values: object) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    loader = PackageLoader("experiments.report")
    settings = Environment(loader=loader, autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True)
    return settings.get_template("report.html").render(**values)


def _writable(text: str) -> str:
    """``text`` with surrogates, as in names of files that are not UTF-8, written out: UTF-8 has none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shared_options(runs: Sequence[Run]) -> dict[str, Any]:
    """The options that all runs have in common, by name."""
    return {
        name: value
        for name, value in asdict(runs[0].config).items()
        if value is not None
        and name not in ("init", "seed", *MAY_DIFFER_ON_RESUME)
        and all(getattr(run.config, name) == value for run in runs)
    }


def _partitions(arms: Sequence[Arm]) -> list[dict[str, str]]:
    """Pictures of the first seeds' partitions, each different one once, with a caption."""
    found: dict[bytes, dict[str, str]] = {}
    for arm in arms:
        run = arm.runs[0]
        try:
            content = (run.folder / file_names.PARTITION_PICTURE).read_bytes()
        except OSError:
            continue
        caption = f"{run.config.clients_title}, seed {run.config.seed}"
        found.setdefault(content, {"caption": caption, "picture": base64.b64encode(content).decode()})
    return list(found.values())[:MOST_PARTITIONS]


def _analyses(folder: Path, runs: Sequence[Run]) -> list[dict[str, str]]:
    """What the analyses in ``folder`` say: name, sentence and picture of each.

    Those that are older than the last of the runs cannot be of all of them, and are left out.
    """
    found = []
    last = max(((run.folder / file_names.METRICS).stat().st_mtime for run in runs), default=0.0)
    for text in sorted(folder.glob("*.txt")):
        if text.stat().st_mtime < last:
            continue
        picture = text.with_suffix(".png")
        encoded = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
        found.append(
            {"name": text.stem, "text": text.read_text(encoding="utf-8", errors="replace"), "picture": encoded}
        )
    return found


def _intervals(analyses: Sequence[Mapping[str, str]]) -> int:
    """How many intervals analyses hold; those of fairness are the arms' own."""
    return sum(len(_INTERVAL.findall(analysis["text"])) for analysis in analyses if analysis["name"] != "fairness")


def _machines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Which runs were made with which revision, versions and machine; last, what made the page."""
    names_by_machine: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        names_by_machine.setdefault(tuple(run.environment.items()), []).append(run.folder.name)
    found = []
    for key, names in names_by_machine.items():
        which = "All runs" if len(names_by_machine) == 1 else ", ".join(names)
        found.append({"runs": f"{which}:" if key else f"{which}: not recorded.", "environment": dict(key)})
    return [*found, {"runs": "This page:", "environment": environment.describe()}]
