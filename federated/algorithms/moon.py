"""MOON (Li, He and Song 2021, "Model-Contrastive Federated Learning", equation 3 and algorithm 1).

A client's representation of an image is drawn towards the global model's and away from its own of the round before.
The representation is the encoder's output; the paper puts a projection head in between, which a warm-started encoder
does not have.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

from federated.algorithms.fedavg import combine as combine  # the server does as in FedAvg
from federated.algorithms.fedavg import init as init
from federated.client.training import Client, ClientUpdate, local_sgd
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of MOON."""

    keeps_state: ClassVar[bool] = True
    mean_only: ClassVar[bool] = True
    needs_encoder: ClassVar[bool] = True

    moon_mu: Annotated[float, Ge(0)] = 1.0
    """Weight of the contrastive loss."""
    moon_temperature: Annotated[float, Gt(0)] = 0.5
    """Temperature of the contrastive loss."""


def train_client(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
    """Local SGD with ``mu`` times the model-contrastive loss (equation 4); remembers the trained model.

    A client's first round has no model before it and is FedAvg's: the global model in its place would give a loss that
    is constant.
    """
    previous = client.state.get("model")
    if previous is None:
        update = local_sgd(client, weights)
    else:
        mu, temperature = client.options.moon_mu, client.options.moon_temperature
        encoder, head = client.model.get_submodule("encoder"), client.model.get_submodule("head")
        towards, away = _frozen_encoder(client, weights), _frozen_encoder(client, previous)

        def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
            features = encoder(inputs)
            with torch.no_grad():
                anchors = towards(inputs), away(inputs)
            similarity = torch.stack([F.cosine_similarity(features, anchor) for anchor in anchors], dim=1)
            first = torch.zeros(len(features), dtype=torch.int64, device=features.device)
            return head(features), mu * F.cross_entropy(similarity / temperature, first)

        update = local_sgd(client, weights, forward=forward)
    return update._replace(state={"model": update.weights})


def _frozen_encoder(client: Client, weights: Mapping[str, Tensor]) -> torch.nn.Module:
    """A copy of the model's encoder with these weights, which BatchNorm's statistics belong to and stay with."""
    model = copy.deepcopy(client.model)
    model.load_state_dict(weights)
    return model.get_submodule("encoder").eval().requires_grad_(False)
