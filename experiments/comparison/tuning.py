"""The choice of a learning rate for each arm, on the validation split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.report.arms import arm_key, is_centralised, short_names
from experiments.report.runs import Run
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import csv_text, write_text_atomically

TUNING = "tuning.csv"
"""What each learning rate came to on the validation split."""


def choose(candidates: Sequence[Run]) -> dict[str, float]:
    """For each arm, by ``arm_key``, the learning rate of the run with the best last validation accuracy.

    Of two that tie the lower one is taken.

    Raises:
        UserError: a run has no validation accuracy after its last round.
    """
    for run in candidates:
        if run.history[-1].get("val_accuracy") is None:
            line = len(run.history)
            raise UserError(f"{run.folder / 'metrics.jsonl'}, line {line}: it has no val_accuracy to choose by")
    best: dict[str, Run] = {}
    for run in sorted(candidates, key=lambda run: run.config.lr):
        other = best.get(arm_key(run.config))
        if other is None or run.history[-1]["val_accuracy"] > other.history[-1]["val_accuracy"]:
            best[arm_key(run.config)] = run
    return {key: run.config.lr for key, run in best.items()}


def record(
    folder: Path, candidates: Sequence[Run], chosen: dict[str, float], diverged: Sequence[RunConfig] = ()
) -> None:
    """Write what was tried into the comparison's ``folder``, and say what was chosen on stderr.

    Rates at which training ``diverged`` come last, without an accuracy.
    """
    names = short_names(config.init for config in (*(run.config for run in candidates), *diverged))

    def row(config: RunConfig, accuracy: str, mark: str) -> tuple[object, ...]:
        name = names[config.init] + (", centralised" if is_centralised(config) else "")
        return name, f"{config.lr:g}", config.seed, accuracy, mark

    rows = []
    for run in candidates:
        mark = "yes" if chosen[arm_key(run.config)] == run.config.lr else "no"
        accuracy = run.history[-1]["val_accuracy"]
        rows.append(row(run.config, f"{accuracy:.4f}", mark))
        if mark == "yes":
            print(f"{arm_key(run.config)}: lr {run.config.lr:g}, validation accuracy {accuracy:.1%}", file=sys.stderr)
    rows += [row(config, "", "failed") for config in diverged]
    header = ("init", "lr", "seed", "val_accuracy", "chosen")
    write_text_atomically(folder / TUNING, csv_text(header, rows))
