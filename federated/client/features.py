"""What a frozen encoder makes of images, computed once: the features that ``--train head`` trains on.

The encoder is in evaluation mode, with the statistics it began with, and images are not augmented: an image has the
same features in every round.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.client.parts import ENCODER, HEAD
from federated.client.training import ClientHyperparameters, Problem
from federated.weights import Weights
from fps_pretrain.images.pixels import normalise

Compute = Callable[[], Tensor]


def head_of(model: nn.Module) -> nn.Sequential:
    """A classifier of features: the model's own ``head`` behind an encoder that leaves its input as it is."""
    return nn.Sequential(OrderedDict(encoder=nn.Identity(), head=model.get_submodule("head")))


def head_weights(weights: Mapping[str, Tensor]) -> Weights:
    """The head's part of a classifier's state dict."""
    return {name: tensor for name, tensor in weights.items() if name.startswith(HEAD)}


@torch.no_grad()
def encode(model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, batch_size: int) -> Tensor:
    """The features ``(N, D)`` of images ``(N, S, S, 3)`` under these weights, on the device of the images."""
    model.load_state_dict(weights)
    encoder = model.get_submodule("encoder").eval()
    parts = [encoder(normalise(images[start : start + batch_size])) for start in range(0, len(images), batch_size)]
    return torch.cat(parts)


def _inputs(features: Tensor, batch: Tensor, hyper: ClientHyperparameters, generator: torch.Generator) -> Tensor:
    return features[batch.to(features.device)]


FROM_FEATURES = Problem(_inputs, F.cross_entropy)
"""Features and labels."""


class FeatureCache:
    """Features under one encoder, as many as fit; what does not fit is computed whenever it is asked for.

    Args:
        limit: bytes that are kept at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._encoder: Weights = {}
        self._kept: dict[Any, Tensor] = {}

    def get(self, key: Any, weights: Mapping[str, Tensor], compute: Compute) -> Tensor:
        """The features known as ``key`` under the encoder in ``weights``; those of another encoder are forgotten."""
        encoder = {name: tensor for name, tensor in weights.items() if name.startswith(ENCODER)}
        if not _are_equal(encoder, self._encoder):
            self._encoder, self._kept = encoder, {}
        if key in self._kept:
            return self._kept[key]
        features = compute()
        if self.size + features.nbytes <= self._limit:
            self._kept[key] = features
        return features

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(features.nbytes for features in self._kept.values())


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
