"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization").

Clients that take more steps pull the mean towards their own optimum. FedNova averages their changes per step and takes
as many such steps as they took on average (section 5): ``x <- x - tau_eff sum_i p_i (x - y_i) / ||a_i||_1`` with
``tau_eff = sum_i p_i ||a_i||_1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from federated.algorithms.averaging import Sum, weighted_sum
from federated.algorithms.base import Combined, Replies, ServerState, Setting, Weights, no_state
from federated.client.training import (
    Client,
    ClientHyperparameters,
    ClientUpdate,
    effective_steps,
    local_sgd,
    steps_in_a_round,
)
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


def combine(state: ServerState, params: Weights, replies: Replies, setting: Setting) -> Combined:
    """The model after the mean number of steps, of the mean of the clients' changes per step.

    Factors are those of all that were asked, taking as many steps as they should. Where some do not answer, or took
    others, all factors are off by one number, which is made good at the end. No client is believed that it took less
    than one step, or more than the longest plan.
    """
    assert setting.hyper is not None
    plan = [(examples, _steps(examples, setting.hyper)) for examples in replies.expected_examples]
    examples, steps, lead = _totals(plan)
    longest = max(planned for _, planned in plan)
    combined, came = Sum(), []
    combined.add(params, lead)
    for update in replies:
        taken = min(max(update.metrics["effective_steps"], 1.0), longest)
        combined.add(update.weights, update.num_examples / examples * (steps / taken))
        came.append((update.num_examples, taken))
    if came == plan:
        return Combined(combined.result(), {})
    examples_came, steps_came, lead_came = _totals(came)
    ratio = examples / examples_came * steps_came / steps
    moved = weighted_sum([params, combined.total, params], [-ratio * lead, ratio, lead_came])
    return Combined(moved, {})


def _steps(examples: int, hyper: ClientHyperparameters) -> float:
    return effective_steps(steps_in_a_round(examples, hyper), hyper.momentum)


def _totals(clients: Sequence[tuple[int, float]]) -> tuple[int, float, float]:
    """All examples, the mean number of steps, and the old parameters' factor, of clients' examples and steps."""
    total = sum(examples for examples, _ in clients)
    shares = [(examples / total, taken) for examples, taken in clients]
    mean = sum(share * taken for share, taken in shares)
    return total, mean, 1 - sum(share * (mean / taken) for share, taken in shares)
