"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization").

Clients that take more steps pull the mean towards their own optimum. FedNova averages their changes per step and takes
as many such steps as they took on average (section 5): ``x <- x - tau_eff sum_i p_i (x - y_i) / ||a_i||_1`` with
``tau_eff = sum_i p_i ||a_i||_1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from federated.algorithms.averaging import shares_of, weighted_sum
from federated.algorithms.base import Combined, ServerState, Setting, Update, Weights, no_state
from federated.client.training import Client, ClientUpdate, effective_steps, local_sgd
from federated.config.algorithm import AlgorithmOptions

METRICS = ("effective_steps",)


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """FedNova has no options of its own."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD; reports, too, how many plain steps its steps are worth (``||a_i||_1``)."""
    update = local_sgd(client, weights)
    steps = effective_steps(update.steps, client.hyper.momentum)
    return update._replace(metrics={**update.metrics, "effective_steps": steps})


init = no_state


def combine(state: ServerState, params: Weights, updates: Sequence[Update], setting: Setting) -> Combined:
    """The model after the mean number of steps, of the mean of the clients' changes per step."""
    shares = shares_of([update.num_examples for update in updates])
    steps = [update.metrics["effective_steps"] for update in updates]
    mean_steps = sum(share * taken for share, taken in zip(shares, steps, strict=True))
    factors = [share * (mean_steps / taken) for share, taken in zip(shares, steps, strict=True)]
    combined = weighted_sum([params, *(update.weights for update in updates)], [1 - sum(factors), *factors])
    return Combined(combined, {})
