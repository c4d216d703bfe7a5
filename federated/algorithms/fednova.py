"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization").

Clients that take more steps pull the mean towards their own optimum. FedNova averages their changes per step and takes
as many such steps as they took on average (equation 6): ``x <- x - tau_eff sum_i p_i (x - y_i) / ||a_i||_1`` with
``tau_eff = sum_i p_i ||a_i||_1``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from federated.algorithms.fedavg import ALL_NODES, FedAvg, arrays_of, examples_of
from federated.averaging import weighted_sum
from federated.config import RunConfig
from federated.local import Client, ClientUpdate, Weights, effective_steps, local_sgd
from federated.records import from_record


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD; tells, too, how many plain steps its steps are worth (``||a_i||_1``)."""
    update = local_sgd(client, weights)
    steps = effective_steps(update.steps, client.hyper.momentum)
    return update._replace(metrics={**update.metrics, "effective_steps": steps})


def build_strategy(config: RunConfig) -> FedNova:
    """The normalised mean."""
    return FedNova(**ALL_NODES)


class FedNova(FedAvg):
    """Averages changes per effective step, weighted by examples."""

    _start: Weights

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages."""
        self._start = from_record(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Equation 6."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        counts = examples_of(valid)
        shares = [count / sum(counts) for count in counts]
        steps = [float(str(reply.content.metric_records["metrics"]["effective_steps"])) for reply in valid]
        mean_steps = sum(share * taken for share, taken in zip(shares, steps, strict=True))
        factors = [share * (mean_steps / taken) for share, taken in zip(shares, steps, strict=True)]
        parameters = weighted_sum(chain([self._start], arrays_of(valid)), [1 - sum(factors), *factors])
        return ArrayRecord(parameters), self.mean_metrics(valid)
