"""Results as CSV: an arm a row (summary.csv), a round a row (rounds.csv), and a client a row (clients.csv)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from experiments.report.arms import MEASURES, Arm
from experiments.report.runs import CLIENT_KEYS, TUNED_KEYS
from experiments.report.statistics import Interval
from experiments.report.summary import Summary
from fps_pretrain.common.files import csv_text

ROUND_KEYS = ("test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_loss", "seconds")


def summary_csv(summaries: Sequence[Summary]) -> str:
    """One row an arm, with five decimals; a cell is empty where there is nothing to say, such as for the baseline."""
    targets = list(summaries[0].rounds_to)
    shown = _Shown(
        clients=any(s.clients for s in summaries),
        tuned=any(s.clients and s.clients.tuned for s in summaries),
        measure=summaries[0].measure != MEASURES["test_accuracy"],
        pairs=any(s.has_other_seeds_than(summaries[0]) for s in summaries),
    )
    return csv_text(_header(targets, shown), [_row(s, targets, shown) for s in summaries])


class _Shown(NamedTuple):
    """Which columns there are beside those that each table has."""

    clients: bool
    tuned: bool
    measure: bool
    pairs: bool


def _header(targets: Sequence[float], shown: _Shown) -> list[str]:
    header = ["arm", "seeds", "final_accuracy", "final_std", "best_accuracy", "best_std", "mean_over_rounds"]
    header += [f"rounds_to_{target:.3f}" for target in targets]
    header += ["difference", "difference_low", "difference_high"]
    header += ["mean_difference", "mean_difference_low", "mean_difference_high", "seconds_per_round"]
    if shown.clients:
        header += ["client_mean", "client_std", "client_worst_tenth", "client_worst_tenth_seed_std"]
        header += [f"client_worst_tenth_difference{end}" for end in ("", "_low", "_high")]
    if shown.tuned:
        header += ["fine_tuned_mean", "fine_tuned_worst_tenth", "fine_tuned_gain"]
        header += [f"fine_tuned_difference{end}" for end in ("", "_low", "_high")]
    return [*header, *(["measure"] if shown.measure else []), *(["pairs"] if shown.pairs else [])]


def _row(s: Summary, targets: Sequence[float], shown: _Shown) -> list[object]:
    row: list[object] = [s.arm, s.seeds, s.final, s.final_std, s.best, s.best_std, s.mean_over_rounds]
    row += [" ".join("-" if r is None else str(r) for r in s.rounds_to[target]) for target in targets]
    for interval in (s.difference, s.mean_difference):
        row += _ends(interval)
    row.append(s.seconds_per_round)
    if s.clients:
        row += [s.clients.mean, s.clients.spread, s.clients.worst_tenth, s.clients.worst_tenth_std]
        row += _ends(s.clients.difference)
    elif shown.clients:
        row += [""] * 7
    if s.clients and (tuned := s.clients.tuned):
        row += [tuned.mean, tuned.worst_tenth, tuned.gain, *_ends(tuned.difference)]
    elif shown.tuned:
        row += [""] * 6
    row += [s.measure] if shown.measure else []
    row += [s.difference.pairs if s.difference else ""] if shown.pairs else []
    return [f"{value:.5f}" if isinstance(value, float) else value for value in row]


def _ends(interval: Interval | None) -> list[object]:
    return [interval.mean, interval.low, interval.high] if interval else ["", "", ""]


def rounds_csv(arms: Sequence[Arm]) -> str:
    """One row for each round of each run, as measured."""
    runs = [run for arm in arms for run in arm.runs]
    at_clients = (*CLIENT_KEYS, *(TUNED_KEYS if any(run.config.fine_tune_epochs for run in runs) else ()))
    keys = (*ROUND_KEYS, *(at_clients if any(arm.client_rounds for arm in arms) else ()))
    rows = [
        [arm.label, run.config.seed, row["round"], *(row.get(key) for key in keys)]
        for arm in arms
        for run in arm.runs
        for row in run.history
    ]
    return csv_text(["arm", "seed", "round", *keys], rows)


def clients_csv(arms: Sequence[Arm]) -> str:
    """One row for each client of each run, after the last round in which the model was evaluated there.

    The accuracy in [0, 1] of the global model and, with ``--fine-tune-epochs``, of the client's fine-tuned copy; a cell
    is empty where a client did not answer.
    """
    rows = [
        [arm.label, run.config.seed, run.client_rounds[-1], client, *found.values()]
        for arm in arms
        for run in arm.runs
        for client, found in enumerate(run.at_each_client)
    ]
    return csv_text(["arm", "seed", "round", "client", "accuracy", "fine_tuned_accuracy"], rows)
