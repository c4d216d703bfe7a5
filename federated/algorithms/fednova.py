"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization").

Clients that take more steps pull the mean towards their own optimum. FedNova averages their changes per step and takes
as many such steps as they took on average (section 5): ``x <- x - tau_eff sum_i p_i (x - y_i) / ||a_i||_1`` with
``tau_eff = sum_i p_i ||a_i||_1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from flwr.app import Message
from torch import Tensor

from federated.algorithms.averaging import weighted_sum
from federated.algorithms.fedavg import ChangesFromStart, arrays_of, examples_of
from federated.client.training import Client, ClientUpdate, Weights, effective_steps, local_sgd
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """FedNova has no options of its own."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD; tells, too, how many plain steps its steps are worth (``||a_i||_1``)."""
    update = local_sgd(client, weights)
    steps = effective_steps(update.steps, client.hyper.momentum)
    return update._replace(metrics={**update.metrics, "effective_steps": steps})


def build_strategy(config: RunConfig) -> FedNova:
    """The normalised mean."""
    return FedNova()


class FedNova(ChangesFromStart):
    """Averages changes per effective step, weighted by examples."""

    def combine(self, replies: list[Message]) -> Weights:
        """The model after the mean number of steps, of the mean of the clients' changes per step."""
        counts = examples_of(replies)
        shares = [count / sum(counts) for count in counts]
        steps = [float(str(reply.content.metric_records["metrics"]["effective_steps"])) for reply in replies]
        mean_steps = sum(share * taken for share, taken in zip(shares, steps, strict=True))
        factors = [share * (mean_steps / taken) for share, taken in zip(shares, steps, strict=True)]
        return weighted_sum(chain([self.origin], arrays_of(replies)), [1 - sum(factors), *factors])
