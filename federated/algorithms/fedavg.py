"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from federated.algorithms.averaging import shares_of, weighted_sum
from federated.algorithms.base import Combined, ServerState, Setting, Update, Weights, no_state
from federated.client.training import Client, ClientUpdate, local_sgd
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Federated averaging has no options of its own."""

    mean_only: ClassVar[bool] = True


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD (ClientUpdate in algorithm 1)."""
    return local_sgd(client, weights)


init = no_state


def combine(state: ServerState, params: Weights, updates: Sequence[Update], setting: Setting) -> Combined:
    """``w <- sum_k n_k / n w_k``: the mean of the clients' parameters, weighted by their numbers of examples."""
    shares = shares_of([update.num_examples for update in updates])
    return Combined(weighted_sum((update.weights for update in updates), shares), {})
