"""Runs side by side as one HTML page, a PNG and a CSV: ``python -m experiments.report RUN... --output FOLDER``.

Runs that differ only in their seed form an arm. The first arm is the baseline that the others are paired with, seed
by seed.
"""

from __future__ import annotations

import base64
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments.statistics import Interval, paired_difference, rounds_to
from federated.config import FREE_ON_RESUME, RunConfig, from_yaml
from federated.run_folder import Row, read_history
from fps_pretrain import cli
from fps_pretrain.errors import UserError

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
class Run:
    """A run's configuration and its history; ``accuracy`` has one value for each of the evaluated ``rounds``."""

    config: RunConfig
    history: list[Row]

    @property
    def rounds(self) -> list[int]:
        """Rounds after which the global model was evaluated."""
        return [row["round"] for row in self.history if row.get("test_accuracy") is not None]

    def values(self, key: str) -> np.ndarray:
        """A quantity after each evaluated round; NaN where the loss was not finite."""
        rows = [row for row in self.history if row.get("test_accuracy") is not None]
        return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only, in the order of their seeds."""

    label: str
    runs: list[Run]

    def __post_init__(self) -> None:
        """All runs of an arm were evaluated after the same rounds.

        Raises:
            UserError: they were not.
        """
        if len({tuple(run.rounds) for run in self.runs}) > 1:
            raise UserError(f"the runs of '{self.label}' have different rounds: finish them first")

    @property
    def seeds(self) -> list[int]:
        """The runs' seeds."""
        return [run.config.seed for run in self.runs]

    def values(self, key: str) -> np.ndarray:
        """``(seeds, evaluated rounds)``."""
        return np.stack([run.values(key) for run in self.runs])


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: it is none, or nothing was evaluated yet.
    """
    try:
        config = from_yaml((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.yaml") from error
    run = Run(config, read_history(folder))
    if not run.rounds:
        raise UserError(f"{folder} has no evaluated round yet")
    return run


def group(runs: Sequence[Run]) -> list[Arm]:
    """Arms in the order in which their first run came; a label names the fields in which arms differ."""
    ignored = {"seed", *FREE_ON_RESUME}
    keys: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for run in runs:
        key = tuple((name, value) for name, value in asdict(run.config).items() if name not in ignored)
        keys.setdefault(key, []).append(run)
    differing = [
        name for position, (name, _) in enumerate(next(iter(keys))) if len({key[position] for key in keys}) > 1
    ]
    arms = []
    for key, members in keys.items():
        values = dict(key)
        shown = [_init_label(values["init"])] if "init" in differing or not differing else []
        shown += [f"{name.replace('_', '-')} {values[name]}" for name in differing if name != "init"]
        arms.append(Arm(", ".join(shown), sorted(members, key=lambda run: run.config.seed)))
    return arms


def _init_label(init: str) -> str:
    return init if init == "random" else Path(init).stem


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
        if arm is not baseline:
            shared = [seed for seed in arm.seeds if seed in baseline.seeds]
            mine = accuracy[[arm.seeds.index(seed) for seed in shared]]
            theirs = baseline.values("test_accuracy")[[baseline.seeds.index(seed) for seed in shared]]
            if shared:
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
            )
        )
    return summaries


def draw(arms: Sequence[Arm], title: str) -> bytes:
    """The curves as a PNG: the mean over seeds, a band from the lowest to the highest seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("test_accuracy", "test_loss"), ("test accuracy", "test loss"), strict=True):
        for arm in arms:
            values, rounds = arm.values(key), arm.runs[0].rounds
            name = f"{arm.label} ({len(arm.runs)} {'seed' if len(arm.runs) == 1 else 'seeds'})"
            (line,) = axes.plot(rounds, values.mean(axis=0), label=name)
            if len(arm.runs) > 1:
                axes.fill_between(
                    rounds, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.18, linewidth=0
                )
        axes.set(xlabel="round", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    # A loss that explodes in one round would flatten all the rest.
    losses = np.concatenate([arm.values("test_loss").ravel() for arm in arms])
    finite = losses[np.isfinite(losses)]
    if len(finite):
        panels[1].set_ylim(0, 1.15 * float(np.quantile(finite, 0.95)))
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
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
    rows = []
    for s in summaries:
        row: list[object] = [s.arm, s.seeds, s.final, s.final_std, s.best, s.best_std, s.mean_over_rounds]
        row += [" ".join("-" if r is None else str(r) for r in s.rounds_to[target]) for target in targets]
        for interval in (s.difference, s.mean_difference):
            row += [interval.mean, interval.low, interval.high] if interval else ["", "", ""]
        rows.append([f"{v:.5f}" if isinstance(v, float) else v for v in [*row, s.seconds_per_round]])
    return _csv(header, rows)


def _rounds_csv(arms: Sequence[Arm]) -> str:
    keys = ("test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_loss", "seconds")
    rows = [
        [arm.label, run.config.seed, row["round"], *(row.get(key) for key in keys)]
        for arm in arms
        for run in arm.runs
        for row in run.history
    ]
    return _csv(["arm", "seed", "round", *keys], rows)


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
        if name not in ("init", "seed", *FREE_ON_RESUME) and all(getattr(run.config, name) == value for run in runs)
    }
    template = Environment(
        loader=PackageLoader("experiments"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
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
        points=lambda value: "–" if value != value else f"{100 * value:+.1f}",
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / CURVES).write_bytes(picture)
    (output / TABLE).write_text(_summary_csv(summaries))
    (output / ROUNDS).write_text(_rounds_csv(arms))
    (output / PAGE).write_text(page)
    return summaries


def main(config: ReportConfig) -> int:
    """Report the runs; returns the exit code."""
    runs = [read_run(folder) for folder in config.runs]
    command = "python -m experiments.report " + " ".join(sys.argv[1:])
    write(runs, config.output, config.targets, config.output.name, command)
    print(f"wrote {config.output / PAGE} and {config.output / CURVES}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    PROG = "experiments.report"
    sys.exit(cli.run(PROG, main, cli.parse(ReportConfig, PROG)))
