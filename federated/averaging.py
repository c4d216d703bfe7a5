"""Sums and means of state dicts, in float64 and in a fixed order, so that they do not depend on who answered first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def weighted_sum(weights: Sequence[Mapping[str, Tensor]], factors: Sequence[float]) -> dict[str, Tensor]:
    """The sum of ``factors[i] * weights[i]``, added up in float64 in the order given, in the type of the first.

    Args:
        weights: state dicts with the same names and shapes, floating point only.
        factors: one for each.
    """
    total = {}
    for name, first in weights[0].items():
        summed = torch.zeros(first.shape, dtype=torch.float64)
        for client, factor in zip(weights, factors, strict=True):
            summed.add_(client[name].double(), alpha=factor)
        total[name] = summed.to(first.dtype)
    return total


def weighted_mean(weights: Sequence[Mapping[str, Tensor]], counts: Sequence[float]) -> dict[str, Tensor]:
    """Mean of state dicts weighted by ``counts``; of integers (BatchNorm's count of batches) the maximum.

    An average of counts counts nothing, and as a float it would no longer fit the model.
    """
    total = sum(counts)
    floating = {name for name, tensor in weights[0].items() if tensor.is_floating_point()}
    mean = weighted_sum(
        [{name: client[name] for name in client if name in floating} for client in weights],
        [count / total for count in counts],
    )
    return {
        name: mean[name] if name in floating else torch.stack([client[name] for client in weights]).amax(0)
        for name in weights[0]
    }
