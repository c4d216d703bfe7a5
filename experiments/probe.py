"""Accuracy of frozen encoders on a data set: ``python -m experiments.probe --inits random checkpoints/fps_r20.pt``.

The first thing to look at when a warm start does not help. Nearest neighbours are looked up in the training split, a
linear classifier is trained on it, and the validation split is classified; the test set is not touched.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from federated.config.run import RunConfig
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options.flags import Merged

PROG = "experiments.probe"

OPTIONS = ("arch", "width", "dataset", "data_dir", "limit_train", "image_size", "validation", "seed", "threads")
"""Options of run_fl.py that say what encoder and which images: the others would do nothing."""


@dataclass(frozen=True)
class ProbeConfig:
    """kNN and linear accuracy of frozen encoders, as CSV."""

    inits: tuple[str, ...] = ("random", "checkpoints/fps_r20.pt")
    """Encoders, each as run_fl.py's --init takes it."""
    neighbours: int = 20
    """How many neighbours vote."""
    bn_statistics: Literal["checkpoint", "data"] = "checkpoint"
    """data: BatchNorm's statistics are estimated anew on the bank's images, without their labels."""
    run: Annotated[RunConfig, Merged(only=OPTIONS, instead=(("init", "--inits"),))] = field(
        default_factory=lambda: RunConfig(validation=0.1)
    )
    """Options of run_fl.py."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: nothing to probe, no neighbours, or no validation split.
        """
        if not self.inits:
            raise UserError("--inits must name at least one encoder")
        if self.neighbours < 1:
            raise UserError(f"--neighbours must be at least 1, got {self.neighbours}")
        if not self.run.validation:
            raise UserError("--validation must be above 0: the validation split is what is classified")


def main(config: ProbeConfig) -> int:
    """Print one line an encoder, as CSV on stdout; returns the exit code."""
    import torch

    from experiments.report.arms import short_names
    from federated.client.batch_norm import estimate_statistics
    from federated.data import sets as data
    from federated.server.start.initialise import initial_encoder
    from fps_pretrain.probing.probe import extract_features, knn_accuracy, linear_accuracy

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    encoders = [(init, initial_encoder(replace(config.run, init=init))[0]) for init in config.inits]
    table = data.load(config.run)
    bank, queries = table.train, table.validation
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["init", "seed", "dataset", "bank", "queries", "knn_accuracy", "linear_accuracy"])
    names = short_names(config.inits)
    for init, encoder in encoders:
        if config.bn_statistics == "data":
            estimate_statistics(encoder, encoder.state_dict(), torch.from_numpy(bank.images), batch_size=256)
        known, asked = (extract_features(encoder, part.images) for part in (bank, queries))
        accuracies = (
            knn_accuracy(known, bank.labels, asked, queries.labels, config.neighbours),
            linear_accuracy(known, bank.labels, asked, queries.labels),
        )
        about = (names[init], config.run.seed, config.run.dataset, len(bank), len(queries))
        writer.writerow([*about, *(f"{accuracy:.4f}" for accuracy in accuracies)])
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(ProbeConfig, PROG)))
