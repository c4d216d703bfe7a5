"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from federated.algorithms.averaging import Mean
from federated.algorithms.base import Combined, Replies, ServerState, Setting, Weights, no_state
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


def combine(state: ServerState, params: Weights, replies: Replies, setting: Setting) -> Combined:
    """``w <- sum_k n_k / n w_k``: the mean of the clients' parameters, weighted by their numbers of examples."""
    mean = Mean(replies.expected_examples)
    for update in replies:
        mean.add(update.weights, update.num_examples)
    return Combined(mean.result(), {})
