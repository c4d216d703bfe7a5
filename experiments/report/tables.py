"""Results as CSV: an arm a row (summary.csv), and a round a row (rounds.csv)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from experiments.report.arms import Arm
from experiments.report.runs import CLIENT_KEYS
from experiments.report.statistics import Interval
from experiments.report.summary import Summary

ROUND_KEYS = ("test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_loss", "seconds")


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV, one line a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def summary_csv(summaries: Sequence[Summary]) -> str:
    """One row an arm, with five decimals; a cell is empty where there is nothing to say, such as for the baseline."""
    targets = list(summaries[0].rounds_to)
    at_clients = any(s.clients for s in summaries)
    return csv_text(_header(targets, at_clients), [_row(s, targets, at_clients) for s in summaries])


def _header(targets: Sequence[float], at_clients: bool) -> list[str]:
    header = ["arm", "seeds", "final_accuracy", "final_std", "best_accuracy", "best_std", "mean_over_rounds"]
    header += [f"rounds_to_{target:.3f}" for target in targets]
    header += ["difference", "difference_low", "difference_high"]
    header += ["mean_difference", "mean_difference_low", "mean_difference_high", "seconds_per_round"]
    if at_clients:
        header += ["client_mean", "client_std", "client_worst_tenth", "client_worst_tenth_seed_std"]
        header += [f"client_worst_tenth_difference{end}" for end in ("", "_low", "_high")]
    return header


def _row(s: Summary, targets: Sequence[float], at_clients: bool) -> list[object]:
    row: list[object] = [s.arm, s.seeds, s.final, s.final_std, s.best, s.best_std, s.mean_over_rounds]
    row += [" ".join("-" if r is None else str(r) for r in s.rounds_to[target]) for target in targets]
    for interval in (s.difference, s.mean_difference):
        row += _ends(interval)
    row.append(s.seconds_per_round)
    if s.clients:
        row += [s.clients.mean, s.clients.spread, s.clients.worst_tenth, s.clients.worst_tenth_std]
        row += _ends(s.clients.difference)
    elif at_clients:
        row += [""] * 7
    return [f"{value:.5f}" if isinstance(value, float) else value for value in row]


def _ends(interval: Interval | None) -> list[object]:
    return [interval.mean, interval.low, interval.high] if interval else ["", "", ""]


def rounds_csv(arms: Sequence[Arm]) -> str:
    """One row for each round of each run, as measured."""
    keys = (*ROUND_KEYS, *(CLIENT_KEYS if any(arm.client_rounds for arm in arms) else ()))
    rows = [
        [arm.label, run.config.seed, row["round"], *(row.get(key) for key in keys)]
        for arm in arms
        for run in arm.runs
        for row in run.history
    ]
    return csv_text(["arm", "seed", "round", *keys], rows)
