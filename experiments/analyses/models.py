"""Loss and accuracy of any weights on a run's data: what the analyses of models have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.report.arms import is_personal
from federated.client.batch_norm import estimate_statistics, has_statistics, model_structure, shuffled
from federated.client.evaluation import evaluate
from federated.client.parts import freeze
from federated.config.run import RunConfig
from federated.data import sets as data
from federated.server.output import client_models, file_names, model_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checksum import why_misfit

Weights = Mapping[str, Tensor]


def final_weights(run: Path) -> dict[str, Tensor]:
    """The state dict of a finished run's model.

    Raises:
        UserError: the run is not finished, or its model damaged.
    """
    path = run / file_names.MODEL
    if not path.is_file():
        raise UserError(f"{run} has no {path.name}: finish the run first")
    weights = dict(model_file.read(path).weights)
    if not weights or (why := why_misfit(weights, weights)):
        raise UserError(f"{path} is damaged: {why if weights else 'it has no weights'}")
    return weights


def kept_rounds(run: Path) -> list[int]:
    """The rounds of which a run keeps its clients' models.

    Raises:
        UserError: there are none.
    """
    if found := client_models.rounds(run):
        return found
    raise UserError(f"{run} has no {file_names.CLIENT_MODELS}/: run it with --keep-clients-every")


def combine(models: Sequence[Weights], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of state dicts; of integer counters the maximum.

    Args:
        models: state dicts with the same tensors ``(K,)``.
        coefficients: a number for each; those of a convex combination add up to 1.
    """
    combined = {}
    for name, first in models[0].items():
        tensors = [model[name] for model in models]
        if first.is_floating_point():
            total = torch.zeros_like(first, dtype=torch.float64)
            for tensor, coefficient in zip(tensors, coefficients, strict=True):
                total += coefficient * tensor.double()
            combined[name] = total.to(first.dtype)
        else:
            combined[name] = torch.stack(tensors).amax(0)
    return combined


@dataclass(frozen=True)
class Evaluator:
    """Evaluates weights on a run's training and test examples.

    Attributes:
        model: lends its structure.
        splits: uint8 images ``(N, S, S, 3)`` and labels ``(N,)`` of ``test`` and ``train``.
        batch_size: examples that are evaluated at a time.
    """

    model: nn.Module
    splits: dict[str, tuple[Tensor, Tensor]]
    batch_size: int

    @classmethod
    def of(cls, config: RunConfig, limit: int | None = None) -> Evaluator:
        """The data and the model of a run.

        Args:
            config: the run's.
            limit: use only so many examples of each split, drawn at random, always the same; None for all.

        Raises:
            UserError: the data are not there, or clients keep their heads, so that no model for the test set exists.
        """
        if is_personal(config):
            raise UserError("runs with --personal head have no model for the test set: their clients keep the heads")
        dataset = data.load(config)
        model = model_structure(config.arch, config.width, config.norm, len(dataset.classes))
        freeze(model, config)  # what is not trained keeps its statistics in ``with_statistics``
        parts = {"test": dataset.test, "train": dataset.train}
        splits = {}
        for name, part in parts.items():
            rows = shuffled(len(part))[:limit]  # data sets may lie class by class
            splits[name] = torch.from_numpy(part.images)[rows], torch.from_numpy(part.labels)[rows]
        return cls(model, splits, config.eval_batch_size)

    def evaluate(self, weights: Weights, split: str = "test") -> tuple[float, float]:
        """Mean cross-entropy and accuracy in [0, 1] on ``test`` or ``train``."""
        return evaluate(self.model, weights, *self.splits[split], self.batch_size)

    def with_statistics(self, weights: Weights) -> dict[str, Tensor]:
        """``weights`` with BatchNorm's statistics taken from the training images.

        The statistics of two models say nothing about those of a model between them (Izmailov et al. 2018, "Averaging
        Weights Leads to Wider Optima and Better Generalization", section 3.2).
        """
        if not has_statistics(self.model):
            return dict(weights)
        return {**weights, **estimate_statistics(self.model, dict(weights), self.splits["train"][0], self.batch_size)}
