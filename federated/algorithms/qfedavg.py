"""q-FedAvg (Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2).

Clients with a larger loss count for more: with ``F_k`` a client's loss under the global model and
``D_k = L (w - w_k)``, ``w <- w - sum_k F_k^q D_k / sum_k (q F_k^(q-1) ||D_k||^2 + L F_k^q)``. The strategy is Flower's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from flwr.serverapp.strategy import QFedAvg
from torch import Tensor

from federated.algorithms import flower
from federated.algorithms.base import Setting
from federated.client.training import Client, ClientUpdate, local_sgd
from federated.config.algorithm import AlgorithmOptions

METRICS = ("initial_loss",)


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of q-FedAvg."""

    all_replies: ClassVar[bool] = True

    q: Annotated[float, Ge(0)] = 0.1
    """Fairness; 0 is the plain mean of clients that count the same."""
    q_lr: Annotated[float, Gt(0)] | None = None
    """Learning rate whose inverse estimates the Lipschitz constant (default: --lr)."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Plain local SGD; tells, too, the loss of the model it was sent."""
    loss = _loss(client, weights)
    update = local_sgd(client, weights)
    return update._replace(metrics={**update.metrics, "initial_loss": loss})


@torch.inference_mode()
def _loss(client: Client, weights: Mapping[str, Tensor]) -> float:
    """Mean loss over the client's examples, not augmented."""
    client.model.load_state_dict(weights)
    client.model.eval()
    plain = replace(client.hyper, augmentation="none")
    total = 0.0
    for batch in torch.arange(len(client.targets)).split(256):
        client.check()
        outputs = client.model(client.problem.inputs(client.examples, batch, plain, torch.Generator()))
        total += float(client.problem.loss(outputs, client.targets[batch.to(client.targets.device)])) * len(batch)
    return total / len(client.targets)


def _arguments(setting: Setting) -> dict[str, Any]:
    """L is estimated by the inverse of a learning rate, as in the paper, by default the clients'."""
    rate = setting.options.q_lr if setting.options.q_lr is not None else setting.client_lr
    return {"client_learning_rate": rate, "q": setting.options.q, "train_loss_key": "initial_loss"}


init, combine = flower.server_step(QFedAvg, _arguments)
