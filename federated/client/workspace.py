"""What a process needs to train and evaluate: data on its device, the partition, and a model whose weights change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import MethodType
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from federated.client.batch_norm import estimate_statistics, model_structure, parameter_names
from federated.client.features import FROM_FEATURES, FeatureCache, encode, head_of, head_weights
from federated.client.gradients import RecordedGradients
from federated.client.parts import Parts, freeze
from federated.client.training import CLASSIFICATION, Problem
from federated.config.run import RunConfig
from federated.config.training import FEATURE_CACHE
from federated.data import sets as data
from federated.data.partition import Partition
from federated.weights import Weights
from fps_pretrain.models.hardware import Precision, fix_algorithms, native_precision, resolve_device

Forward = Callable[[nn.Module, Tensor], Tensor]
"""An encoder and images to features."""


class Task(NamedTuple):
    """What is trained on what, from which weights; see ``client.training.Client``."""

    model: nn.Module
    examples: Tensor
    targets: Tensor
    problem: Problem
    weights: Weights
    recorded: RecordedGradients | None = None


@dataclass(frozen=True)
class Workspace:
    """Data, partition and model of a run on one device.

    Attributes:
        config: the run.
        dataset: its data, in main memory.
        partition: for each client the indices of its training examples; empty with ``--partition nodes``.
        model: a classifier that whoever trains or evaluates loads weights into.
        device: where the model and ``train`` are.
        train: the training images ``(N, S, S, 3)``, uint8, and labels ``(N,)``.
        problem: what the model learns from the data.
    """

    config: RunConfig
    dataset: data.Dataset
    partition: Partition
    model: nn.Module
    device: torch.device
    train: tuple[Tensor, Tensor]
    problem: Problem = CLASSIFICATION

    @classmethod
    def build(cls, config: RunConfig, dataset: data.Dataset, partition: Partition) -> Workspace:
        """Put the training examples and a model of any weights on the configured device."""
        device = resolve_device(config.device)
        if device.type == "cuda":
            fix_algorithms()
        model = model_structure(config.arch, config.width, config.norm, len(dataset.classes))
        encoder = model.get_submodule("encoder")
        forward = _forward_in_bfloat16 if precision_of(config, device) == "bf16" else _forward
        # As bound methods: a copy of the model is then bound to the copy.
        if config.compile:
            encoder.forward = MethodType(_compiled_in_training(forward), encoder)
        elif forward is _forward_in_bfloat16:
            encoder.forward = MethodType(forward, encoder)
        # Measured on CPU: a training step of ResNet-20 takes 0.83 of the time in channels_last, evaluation 0.6.
        model = model.to(device).to(memory_format=torch.channels_last)
        freeze(model, config)
        return cls(config, dataset, partition, model, device, _on_device(dataset.train, device))

    @cached_property
    def parts(self) -> Parts:
        """What of the model is trained, shared and kept."""
        return Parts.of(self.model, self.config)

    @cached_property
    def features(self) -> FeatureCache:
        """The features of this process."""
        megabytes = FEATURE_CACHE if self.config.feature_cache is None else self.config.feature_cache
        return FeatureCache(megabytes * 10**6)

    @cached_property
    def recorded(self) -> RecordedGradients | None:
        """The recordings of the model's steps; None where there is no GPU to record for."""
        return RecordedGradients(self.model, self.problem.loss, self.device) if self.device.type == "cuda" else None

    @cached_property
    def head(self) -> nn.Module:
        """The model's head as a classifier of features."""
        return head_of(self.model)

    def examples_of(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's training images ``(n, S, S, 3)``, uint8, and labels ``(n,)``, on the device."""
        if self.config.partition == "nodes":  # this machine has the examples of one node only
            return self.train
        indices = torch.from_numpy(self.partition[client]).to(self.device)
        return self.train[0][indices], self.train[1][indices]

    def task_of(self, client: int, weights: Weights) -> Task:
        """What a client trains from these weights: the model on its images, or with ``--train head`` the head alone."""
        return self.task(client, *self.examples_of(client), weights)

    def task(self, key: Any, images: Tensor, labels: Tensor, weights: Weights) -> Task:
        """As ``task_of``, on images whose features are kept as ``key``."""
        if self.config.train != "head":
            return Task(self.model, images, labels, self.problem, weights, self.recorded)
        features = self.features_of(key, images, weights)
        return Task(self.head, features, labels, FROM_FEATURES, head_weights(weights))

    def features_of(self, key: Any, images: Tensor, weights: Weights) -> Tensor:
        """The features of images, kept as ``key``, under the encoder in ``weights``."""
        size = self.config.eval_batch_size
        return self.features.get(key, weights, lambda: encode(self.model, weights, images, size))

    def split(self, name: Literal["validation", "test"]) -> tuple[Tensor, Tensor]:
        """The images and labels of a split, on the device."""
        return _on_device(getattr(self.dataset, name), self.device)

    @property
    def parameters(self) -> frozenset[str]:
        """The names in the model's state dict that are parameters; the others are buffers."""
        return parameter_names(self.model)

    def estimate_statistics(self, weights: Mapping[str, Tensor]) -> Weights:
        """``weights`` with BatchNorm's statistics taken from the validation images."""
        images, _ = self.split("validation")
        return {**weights, **estimate_statistics(self.model, weights, images, self.config.eval_batch_size)}


def precision_of(config: RunConfig, device: torch.device) -> Precision:
    """In what a run computes on a device, ``auto`` resolved."""
    return native_precision(device.type == "cuda") if config.precision == "auto" else config.precision


def _forward(encoder: nn.Module, images: Tensor) -> Tensor:
    """What the encoder's own ``forward`` does."""
    return cast(Tensor, type(encoder).forward(encoder, images))


@cache
def _compiled_in_training(forward: Forward) -> Forward:
    """``forward`` compiled once a process for training at any batch size; evaluation is left as it is.

    A run evaluates other batches than it trains on, seldom, and every model that is compiled takes a minute.
    """
    compiled = torch.compile(forward)

    def chosen(encoder: nn.Module, images: Tensor) -> Tensor:
        if not (encoder.training and torch.is_grad_enabled()):
            return forward(encoder, images)
        torch._dynamo.maybe_mark_dynamic(images, 0)  # the last batch is smaller, and clients' batches differ
        return cast(Tensor, compiled(encoder, images))

    return chosen


def _forward_in_bfloat16(encoder: nn.Module, images: Tensor) -> Tensor:
    """What the encoder's own ``forward`` does, under autocast; features in 32 bits."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return _forward(encoder, images).float()


def _on_device(split: data.Split, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)
