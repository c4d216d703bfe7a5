"""Runs side by side as one HTML page, a PNG and a CSV: ``python -m experiments.report RUN... --output FOLDER``.

Runs that differ only in their seed form an arm. The first arm is the baseline that the others are paired with, seed
by seed.
"""

from __future__ import annotations

import base64
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from experiments.report.drawing import draw
from experiments.report.runs import CLIENT_KEYS, Arm, Run, group, read_run
from experiments.report.statistics import Interval, paired_difference, rounds_to
from federated.config.run import FREE_ON_RESUME
from fps_pretrain.common.errors import UserError

PAGE, CURVES, TABLE, ROUNDS = "index.html", "curves.png", "summary.csv", "rounds.csv"
TARGET_SHARES = (0.5, 0.75, 0.9)
"""Default accuracies to reach: these shares of the baseline's best mean accuracy."""


@dataclass(frozen=True)
class ReportConfig:
    """Report finished runs side by side; the first folder's configuration is the baseline."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    output: Path = Path("runs/report")
    """Folder for the page, the PNG and the CSV files."""
    targets: tuple[float, ...] = ()
    """Test accuracies whose first round is reported; none for 50%, 75% and 90% of the baseline's best."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: no run is given, or a target is no share.
        """
        if not self.runs:
            raise UserError("name at least one run folder")
        check_targets(self.targets)


def check_targets(targets: Sequence[float]) -> None:
    """Refuse target accuracies outside (0, 1)."""
    if not all(0 < target < 1 for target in targets):
        raise UserError(f"--targets must lie between 0 and 1, got {' '.join(map(str, targets))}")


@dataclass(frozen=True)
class AtClients:
    """How the last model that was evaluated there does at an arm's clients: means over seeds.

    Attributes:
        mean: accuracy, averaged over the clients.
        spread: its standard deviation over the clients.
        worst_tenth: accuracy, averaged over the tenth of the clients that has the lowest.
        worst_tenth_std: standard deviation of that over seeds, NaN for one seed.
        difference: of ``worst_tenth`` to the baseline's, paired by seed; None for the baseline, or if it has none.
    """

    mean: float
    spread: float
    worst_tenth: float
    worst_tenth_std: float
    difference: Interval | None


@dataclass(frozen=True)
class Summary:
    """An arm in numbers; accuracies are means over seeds, ``*_std`` their standard deviations (NaN for one seed)."""

    arm: str
    seeds: int
    final: float
    final_std: float
    best: float
    best_std: float
    mean_over_rounds: float
    rounds_to: dict[float, list[int | None]]
    difference: Interval | None
    mean_difference: Interval | None
    seconds_per_round: float
    clients: AtClients | None


def _spread(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def summarise(arms: Sequence[Arm], targets: Sequence[float]) -> list[Summary]:
    """One summary an arm; differences are to the first arm, over the seeds that both have."""
    baseline = arms[0]
    summaries = []
    for arm in arms:
        accuracy = arm.values("test_accuracy")
        final, best, mean = accuracy[:, -1], accuracy.max(axis=1), accuracy[:, 1:].mean(axis=1)
        difference = mean_difference = None
        if pairs := _paired(arm, baseline, "test_accuracy"):
            mine, theirs = pairs
            difference = paired_difference(mine[:, -1], theirs[:, -1])
            mean_difference = paired_difference(mine[:, 1:].mean(axis=1), theirs[:, 1:].mean(axis=1))
        seconds = [row["seconds"] for run in arm.runs for row in run.history if row["round"]]
        summaries.append(
            Summary(
                arm=arm.label,
                seeds=len(arm.runs),
                final=float(final.mean()),
                final_std=_spread(final),
                best=float(best.mean()),
                best_std=_spread(best),
                mean_over_rounds=float(mean.mean()),
                rounds_to={
                    t: [rounds_to(run.rounds, run.values("test_accuracy"), t) for run in arm.runs] for t in targets
                },
                difference=difference,
                mean_difference=mean_difference,
                seconds_per_round=float(np.mean(seconds)) if seconds else float("nan"),
                clients=_at_clients(arm, baseline),
            )
        )
    return summaries


def _at_clients(arm: Arm, baseline: Arm) -> AtClients | None:
    if not arm.client_rounds:
        return None
    mean, spread, worst = (arm.values(key)[:, -1] for key in CLIENT_KEYS)
    difference = None
    if baseline.client_rounds and (pairs := _paired(arm, baseline, "client_accuracy_worst_tenth")):
        difference = paired_difference(pairs[0][:, -1], pairs[1][:, -1])
    return AtClients(float(mean.mean()), float(spread.mean()), float(worst.mean()), _spread(worst), difference)


def _paired(arm: Arm, baseline: Arm, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A quantity of both arms for the seeds that both have; None for the baseline itself or if there are none."""
    shared = [seed for seed in arm.seeds if seed in baseline.seeds]
    if arm is baseline or not shared:
        return None
    mine, theirs = (one.values(key)[[one.seeds.index(seed) for seed in shared]] for one in (arm, baseline))
    return mine, theirs


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV, one line a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def _summary_csv(summaries: Sequence[Summary]) -> str:
    targets = list(summaries[0].rounds_to)
    header = ["arm", "seeds", "final_accuracy", "final_std", "best_accuracy", "best_std", "mean_over_rounds"]
    header += [f"rounds_to_{target:.3f}" for target in targets]
    header += ["difference", "difference_low", "difference_high"]
    header += ["mean_difference", "mean_difference_low", "mean_difference_high", "seconds_per_round"]
    at_clients = any(s.clients for s in summaries)
    if at_clients:
        header += ["client_mean", "client_std", "client_worst_tenth", "client_worst_tenth_seed_std"]
        header += [f"client_worst_tenth_difference{end}" for end in ("", "_low", "_high")]
    rows = []
    for s in summaries:
        row: list[object] = [s.arm, s.seeds, s.final, s.final_std, s.best, s.best_std, s.mean_over_rounds]
        row += [" ".join("-" if r is None else str(r) for r in s.rounds_to[target]) for target in targets]
        for interval in (s.difference, s.mean_difference):
            row += _columns(interval)
        row.append(s.seconds_per_round)
        if s.clients:
            row += [s.clients.mean, s.clients.spread, s.clients.worst_tenth, s.clients.worst_tenth_std]
            row += _columns(s.clients.difference)
        elif at_clients:
            row += [""] * 7
        rows.append([f"{v:.5f}" if isinstance(v, float) else v for v in row])
    return csv_text(header, rows)


def _columns(interval: Interval | None) -> list[object]:
    return [interval.mean, interval.low, interval.high] if interval else ["", "", ""]


def _rounds_csv(arms: Sequence[Arm]) -> str:
    keys = ["test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_loss", "seconds"]
    if any(arm.client_rounds for arm in arms):
        keys += CLIENT_KEYS
    rows = [
        [arm.label, run.config.seed, row["round"], *(row.get(key) for key in keys)]
        for arm in arms
        for run in arm.runs
        for row in run.history
    ]
    return csv_text(["arm", "seed", "round", *keys], rows)


def write(runs: Sequence[Run], output: Path, targets: Sequence[float], title: str, command: str) -> list[Summary]:
    """Write the page, the PNG and the two CSV files into ``output``.

    Args:
        runs: the runs; the first one's arm is the baseline.
        output: a folder, made if need be; earlier reports in it are replaced.
        targets: test accuracies whose first round is reported; empty for ``TARGET_SHARES`` of the baseline's best.
        title: heading of page and picture.
        command: what was typed, shown on the page.

    Returns:
        What the page's table shows.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    arms = group(runs)
    if not targets:
        best = float(arms[0].values("test_accuracy").mean(axis=0).max())
        targets = [round(share * best, 3) for share in TARGET_SHARES]
    summaries = summarise(arms, targets)
    picture = draw(arms, title)
    shared = {
        name: value
        for name, value in asdict(runs[0].config).items()
        if value is not None
        and name not in ("init", "seed", *FREE_ON_RESUME)
        and all(getattr(run.config, name) == value for run in runs)
    }
    template = Environment(
        loader=PackageLoader("experiments.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html")
    page = template.render(
        title=title,
        command=command,
        picture=base64.b64encode(picture).decode(),
        summaries=summaries,
        targets=targets,
        shared=shared,
        seeds=sorted({run.config.seed for run in runs}),
        percent=lambda value: "–" if value != value else f"{100 * value:.1f}%",
        interval=_points,
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / CURVES).write_bytes(picture)
    (output / TABLE).write_text(_summary_csv(summaries))
    (output / ROUNDS).write_text(_rounds_csv(arms))
    (output / PAGE).write_text(page)
    return summaries


def _points(interval: Interval | None) -> str:
    """A difference in percentage points, with its interval where there is one."""
    if interval is None:
        return "–"
    mean, low, high = (f"{100 * value:+.1f}" for value in interval[:3])
    return f"{mean} [{low}, {high}]" if interval.pairs > 1 else mean


def main(config: ReportConfig) -> int:
    """Report the runs; returns the exit code."""
    runs = [read_run(folder) for folder in config.runs]
    command = "python -m experiments.report " + " ".join(sys.argv[1:])
    write(runs, config.output, config.targets, config.output.name, command)
    print(f"wrote {config.output / PAGE} and {config.output / CURVES}", file=sys.stderr)
    return 0
