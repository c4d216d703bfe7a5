"""What is measured of an encoder: classifiers on its frozen features, and federations that start from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning_curve.config import CurveConfig
from experiments.learning_curve.values import RANDOM, Value
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError, printable


@dataclass(frozen=True)
class Candidate:
    """An encoder: ``init`` as run_fl.py takes it, the label of its curve, and how many pairs it has seen."""

    label: str
    pairs: int
    init: str
    sha256: str


MOST_PAIRS = 10**15
"""More pairs than any pre-training sees."""


def candidates(encoders: Sequence[str], arch: str, width: int) -> list[Candidate]:
    """The checkpoints of an architecture with what they say of their pre-training.

    Raises:
        UserError: a file is no checkpoint of run_pretrain.py for that architecture, or one is named twice.
    """
    from fps_pretrain.models.checkpoint import load_encoder_weights
    from fps_pretrain.models.checksum import digest
    from fps_pretrain.models.encoders import build_encoder

    found = []
    for text in encoders:
        label, _, path = ("", "", text) if Path(text).is_file() else text.rpartition("=")
        encoder = build_encoder(arch, width)
        said = load_encoder_weights(Path(path), encoder, arch, width).provenance
        pairs = said.get("pairs_seen")
        if type(pairs) is not int or not 0 <= pairs <= MOST_PAIRS:
            raise UserError(f"{path} does not say how many pairs it has seen: name checkpoints of run_pretrain.py")
        name = label or printable(said.get("method", "unknown"))[:80]
        if name == RANDOM:
            raise UserError(f"{path}: the label {RANDOM} is that of random weights: choose another")
        found.append(Candidate(name, pairs, path, digest(encoder.state_dict())))
    if len({c.sha256 for c in found}) < len(found):
        raise UserError("two of the checkpoints hold the same weights: name each once")
    return found


def classify_frozen(run: RunConfig, measures: Sequence[str], table: Any) -> dict[str, float]:
    """Accuracies of classifiers on the frozen features of the encoder that ``run`` starts from, by measure."""
    from federated.server.start.initialise import initial_encoder
    from fps_pretrain.probing.probe import extract_features, knn_accuracy, linear_accuracy

    encoder = initial_encoder(run)[0]
    bank, queries = (extract_features(encoder, part.images) for part in (table.train, table.validation))
    classifiers = {"knn": knn_accuracy, "linear": linear_accuracy}
    return {m: classifiers[m](bank, table.train.labels, queries, table.validation.labels) for m in measures}


def federate(run: RunConfig) -> dict[str, float]:
    """Validation accuracy at the end of a federation and on average over its rounds, by measure."""
    from federated.server.run import run as carry_out

    history = carry_out(run, quiet=True).history
    accuracies = [row["val_accuracy"] for row in history if row["round"] and row.get("val_accuracy") is not None]
    return {"federation": accuracies[-1], "federation_mean": float(np.mean(accuracies))}


@dataclass(frozen=True)
class Work:
    """What is measured in one go, and then written: a federation, or the frozen features' measures."""

    candidate: Candidate
    seed: int
    lr: float
    measures: tuple[str, ...]


def missing(config: CurveConfig, encoders: Sequence[Candidate], values: Sequence[Value]) -> list[Work]:
    """What is asked for and not among ``values``: first frozen features, then federations, all encoders at a seed."""
    have = {value.key for value in values}
    random = Candidate(RANDOM, 0, RANDOM, RANDOM)
    featured = [(random, seed) for seed in config.seeds] + [(candidate, -1) for candidate in encoders]
    federations = [(c, seed, lr) for seed in config.seeds for c in (random, *encoders) for lr in config.rates]
    found = []
    for candidate, seed in featured:
        wanted = [measure for measure in config.measures if measure != "federation"]
        measures = tuple(measure for measure in wanted if (candidate.sha256, measure, seed, 0.0) not in have)
        if measures:
            found.append(Work(candidate, seed, 0.0, measures))
    if "federation" in config.measures:
        for candidate, seed, lr in federations:
            if (candidate.sha256, "federation", seed, lr) not in have:
                found.append(Work(candidate, seed, lr, ("federation",)))
    return found
