"""Sums and means of state dicts, in float64 and in a fixed order: the result does not depend on who answered first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


def weighted_sum(weights: Iterable[Mapping[str, Tensor]], factors: Sequence[float]) -> dict[str, Tensor]:
    """The sum of ``factors[i] * weights[i]``, added up in float64 in the order given, in the type of the first.

    Args:
        weights: state dicts with the same names and shapes, floating point only; one is held at a time.
        factors: one for each.
    """
    total: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for client, factor in zip(weights, factors, strict=True):
        for name, tensor in client.items():
            if name not in total:
                total[name], types[name] = torch.zeros(tensor.shape, dtype=torch.float64), tensor.dtype
            total[name].add_(tensor.double(), alpha=factor)
    return {name: tensor.to(types[name]) for name, tensor in total.items()}


def shares_of(counts: Sequence[float]) -> list[float]:
    """Each count divided by the sum of all."""
    total = sum(counts)
    return [count / total for count in counts]


def weighted_mean(weights: Sequence[Mapping[str, Tensor]], counts: Sequence[float]) -> dict[str, Tensor]:
    """Mean of state dicts weighted by ``counts``; of integers (BatchNorm's count of batches) the maximum.

    An integer keeps its type: as a float it would no longer fit the model.
    """
    floating = {name for name, tensor in weights[0].items() if tensor.is_floating_point()}
    mean = weighted_sum(
        [{name: client[name] for name in client if name in floating} for client in weights], shares_of(counts)
    )
    return {
        name: mean[name] if name in floating else torch.stack([client[name] for client in weights]).amax(0)
        for name in weights[0]
    }


def lower_median(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The lower median of each entry of integer state dicts: a minority of clients cannot move it at will."""
    return {name: torch.stack([client[name] for client in weights]).median(0).values for name in weights[0]}


def mean_metrics(metrics: Sequence[Mapping[str, float]], counts: Sequence[float]) -> dict[str, float]:
    """Mean of the clients' metrics weighted by ``counts``, added up in the order given."""
    shares = shares_of(counts)
    return {
        name: sum(share * client[name] for share, client in zip(shares, metrics, strict=True)) for name in metrics[0]
    }
