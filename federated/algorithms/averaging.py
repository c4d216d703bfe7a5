"""Sums and means of state dicts, in float64 and in a fixed order: the result does not depend on who answered first.

``Sum`` and ``Mean`` take one state dict after the other into one buffer: memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


class Sum:
    """A weighted sum of state dicts, added up in float64 in the order in which they are added."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        """The sum so far, float64; of the names of the first state dict."""
        self._types: dict[str, torch.dtype] = {}

    def add(self, weights: Mapping[str, Tensor], factor: float) -> None:
        """Add ``factor`` times a state dict: floating point, of the names and shapes of the first; it is not kept."""
        if not self.total:
            self._types = {name: tensor.dtype for name, tensor in weights.items()}
            self.total = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in weights.items()}
        for name, tensor in weights.items():
            self.total[name].add_(tensor, alpha=factor)  # in float64, whatever the tensor's type

    def result(self, scale: float = 1.0) -> dict[str, Tensor]:
        """``scale`` times the sum, in the types of the first state dict."""
        total = self.total if scale == 1.0 else {name: tensor * scale for name, tensor in self.total.items()}
        return {name: tensor.to(self._types[name], copy=True) for name, tensor in total.items()}


class Mean:
    """The mean of state dicts weighted by counts; of integers (BatchNorm's count of batches) the maximum.

    An integer keeps its type: as a float it would no longer fit the model.

    Args:
        counts: of all that are expected. A state dict is added with its share of their sum; where some do not come, or
            with other counts, the sum of the others is scaled at the end.
    """

    def __init__(self, counts: Iterable[float]) -> None:
        self._expected = sum(counts)
        self._count: float = 0
        self._sum = Sum()
        self._largest: dict[str, Tensor] = {}
        self._names: tuple[str, ...] = ()

    def add(self, weights: Mapping[str, Tensor], count: float) -> None:
        """Add a state dict, of the names and shapes of the first; it is not kept."""
        self._names = tuple(weights)
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                before = self._largest.get(name)
                self._largest[name] = tensor.clone() if before is None else torch.maximum(before, tensor)
        self._sum.add({n: t for n, t in weights.items() if t.is_floating_point()}, count / self._expected)
        self._count += count

    @property
    def scale(self) -> float:
        """What the sum is to be multiplied by: 1 where all came that were expected."""
        return 1.0 if self._count == self._expected else self._expected / self._count

    @property
    def in_float64(self) -> dict[str, Tensor]:
        """The mean of what is floating point, before it is rounded to its type."""
        return {name: tensor * self.scale for name, tensor in self._sum.total.items()}

    def result(self) -> dict[str, Tensor]:
        """The mean, in the types and the order of the state dicts."""
        found = {**self._sum.result(self.scale), **self._largest}
        return {name: found[name] for name in self._names}


def weighted_sum(weights: Iterable[Mapping[str, Tensor]], factors: Sequence[float]) -> dict[str, Tensor]:
    """The sum of ``factors[i] * weights[i]``, added up in float64 in the order given, in the type of the first.

    Args:
        weights: state dicts with the same names and shapes, floating point only; one is held at a time.
        factors: one for each.
    """
    total = Sum()
    for one, factor in zip(weights, factors, strict=True):
        total.add(one, factor)
    return total.result()


def lower_median(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The lower median of each entry of integer state dicts: a minority of clients cannot move it at will."""
    return {name: torch.stack([client[name] for client in weights]).median(0).values for name in weights[0]}


def mean_metrics(metrics: Sequence[Mapping[str, float]], counts: Sequence[float]) -> dict[str, float]:
    """Mean of the clients' metrics weighted by ``counts``, added up in the order given; nothing of no clients."""
    if not metrics:
        return {}
    total = sum(counts)
    shares = [count / total for count in counts]
    return {
        name: sum(share * client[name] for share, client in zip(shares, metrics, strict=True)) for name in metrics[0]
    }
