"""The choice of a learning rate for each arm, on the validation split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.report.arms import arm_key, is_centralised, short_names
from experiments.report.runs import Run
from federated.config.run import RunConfig
from federated.data.partition_file import load_partition
from federated.server.output import file_names
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import csv_text, write_text_atomically
from fps_pretrain.common.wording import counted

TUNING = "tuning.csv"
"""What each learning rate came to on the validation split."""

FEW_IMAGES = 300
"""With fewer validation images the choice is largely chance: an accuracy of 50% has a standard error of 2.9 points."""

ENOUGH = 0.1
"""The --validation that is advised where there are few images."""


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
    names = _names([*(run.config for run in candidates), *diverged])

    def row(config: RunConfig, accuracy: str, mark: str) -> tuple[object, ...]:
        return names[arm_key(config)], f"{config.lr:g}", config.seed, accuracy, mark

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


def cautions(candidates: Sequence[Run], chosen: dict[str, float], diverged: Sequence[RunConfig] = ()) -> list[str]:
    """What a reader should know before believing the choice: rates at the edge of those tried, ties, few images.

    Args:
        candidates: the runs that the choice was made from.
        chosen: the learning rate of each arm, as ``choose`` gives it.
        diverged: what was tried and diverges: a rate below it is not at the edge.
    """
    configs = [*(run.config for run in candidates), *diverged]
    names = _names(configs)
    found = []
    for key, rate in chosen.items():
        found += _at_the_edge(names[key], rate, sorted({config.lr for config in configs if arm_key(config) == key}))
        accuracies = {
            run.config.lr: run.history[-1]["val_accuracy"] for run in candidates if arm_key(run.config) == key
        }
        tied = [f"{lr:g}" for lr in sorted(accuracies) if accuracies[lr] == accuracies[rate]]
        if len(tied) > 1:
            lower = "lower" if len(tied) == 2 else "lowest"
            found.append(f"{names[key]}: {', '.join(tied[:-1])} and {tied[-1]} tie; the {lower} one was taken.")
    images = _validation_images(candidates[0])
    if images is not None and images < FEW_IMAGES:
        more = f"--validation {ENOUGH:g}" if candidates[0].config.validation < ENOUGH else "a larger --validation"
        found.append(f"The rates were chosen on {counted(images, 'validation image')}: give {more}.")
    return found


def _at_the_edge(name: str, rate: float, tried: Sequence[float]) -> list[str]:
    if len(tried) == 1:
        return [f"{name}: lr {rate:g} is the only one of --lrs; another may be better."]
    edges = {tried[0]: ("lowest", "lower"), tried[-1]: ("highest", "higher")}
    if rate not in edges:
        return []
    edge, beyond = edges[rate]
    return [f"{name}: lr {rate:g} is the {edge} of --lrs; a {beyond} one may be better."]


def _validation_images(run: Run) -> int | None:
    """How many validation images a run had; None where its partition, which tells it, cannot be read."""
    try:
        training = sum(map(len, load_partition(run.folder / file_names.PARTITION)))
    except UserError:
        return None
    share = run.config.validation
    # The split held out round(share * all); all are these and the training images.
    return round(training * share / (1 - share))


def _names(configs: Sequence[RunConfig]) -> dict[str, str]:
    """What arms are called, by ``arm_key``."""
    names = short_names(config.init for config in configs)
    return {
        arm_key(config): names[config.init] + (", centralised" if is_centralised(config) else "") for config in configs
    }
