"""Local training of one client, and evaluation: pure functions of weights, examples, hyper-parameters and a key.

Images stay uint8 ``(N, S, S, 3)`` on the device that trains; cropping, flipping and normalising are done a batch at a
time. The model is passed in and only lends its structure and memory: its weights are replaced before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.config import RunConfig
from federated.keys import seed_of
from fps_pretrain.checkpoint import LoadReport, load_encoder_weights
from fps_pretrain.models import CifarResNet, build_classifier, build_encoder, normalise

Weights = dict[str, Tensor]
"""A model's state dict on the CPU."""


class TrainingDiverged(RuntimeError):
    """The loss of a client is no longer a finite number."""


class ClientUpdate(NamedTuple):
    """What a client sends back: its weights, how many examples stand behind them, and metrics by name."""

    weights: Weights
    num_examples: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Hyper:
    """The hyper-parameters of local SGD in one round; ``augmentation`` is none, crop or standard."""

    lr: float
    momentum: float
    weight_decay: float
    local_epochs: int
    batch_size: int
    augmentation: str

    @classmethod
    def of(cls, config: RunConfig, server_round: int) -> Hyper:
        """Those of ``server_round``, counted from 1."""
        return cls(
            lr=learning_rate(config, server_round),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            local_epochs=config.local_epochs,
            batch_size=config.batch_size,
            augmentation=config.augmentation,
        )


def learning_rate(config: RunConfig, server_round: int) -> float:
    """The learning rate of a round counted from 1; cosine would reach zero one round after the last."""
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (server_round - 1) / config.rounds))


def initial_encoder(config: RunConfig) -> tuple[CifarResNet, LoadReport | None]:
    """The encoder a run starts from, on the CPU, and what loading its checkpoint did (None if it is random).

    Random weights depend on ``config.seed`` alone.

    Raises:
        UserError: ``config.init`` is no checkpoint for this architecture; see ``load_encoder_weights``.
    """
    encoder = build_encoder(config.arch, config.width, seed_of(config.seed, "encoder"))
    report = None if config.init == "random" else load_encoder_weights(config.init, encoder, config.arch, config.width)
    return encoder, report


def initial_classifier(config: RunConfig, encoder: CifarResNet, num_classes: int) -> nn.Module:
    """``encoder`` with a fresh head, the same for all runs of a seed, so that they differ in the encoder only."""
    return build_classifier(encoder, num_classes, seed_of(config.seed, "head"))


def weights_of(model: nn.Module) -> Weights:
    """A copy of the model's weights on the CPU, in the usual memory layout."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def train_client(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    hyper: Hyper,
    key: tuple[int, int, int],
) -> ClientUpdate:
    """Local SGD from ``weights`` (McMahan et al. 2017, "Communication-Efficient Learning", algorithm 1, ClientUpdate).

    Args:
        model: lends its structure; on the device of ``images``.
        weights: where training starts.
        images: uint8 ``(N, S, S, 3)``.
        labels: int64 ``(N,)``.
        hyper: the hyper-parameters of the round.
        key: ``(seed, round, client)``, which fixes batches and augmentation.

    Returns:
        The trained weights, N, and ``train_loss`` and ``train_accuracy``, averaged over all examples as they were
        trained on.

    Raises:
        TrainingDiverged: the loss became infinite or not a number.
    """
    seed, server_round, client = key
    # Drawn on the CPU whatever the device, so that a GPU trains on the same batches.
    generator = torch.Generator().manual_seed(seed_of(seed, "local", server_round, client))
    model.load_state_dict(weights)
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=hyper.lr, momentum=hyper.momentum, weight_decay=hyper.weight_decay
    )
    total_loss = torch.zeros((), dtype=torch.float64, device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    seen = 0
    for _ in range(hyper.local_epochs):
        for batch in _batches(len(labels), hyper.batch_size, generator):
            target = labels[batch.to(labels.device)]
            optimizer.zero_grad(set_to_none=True)
            logits = model(normalise(_augment(images, batch, hyper.augmentation, generator)))
            loss = F.cross_entropy(logits, target)
            loss.backward()
            optimizer.step()
            total_loss += loss.detach().double() * len(batch)
            correct += (logits.detach().argmax(1) == target).sum()
            seen += len(batch)
    train_loss = float(total_loss) / seen
    if not math.isfinite(train_loss):
        raise TrainingDiverged(f"the training loss is {train_loss}: lower --lr")
    metrics = {"train_loss": train_loss, "train_accuracy": int(correct) / seen}
    return ClientUpdate(weights_of(model), len(labels), metrics)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """An epoch's shuffled batches of indices; a last batch of one is left out when there are others."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count, size):
        batch = order[start : start + size]
        # One example has no batch statistics worth the name: BatchNorm would normalise it by itself.
        if len(batch) > 1 or start == 0 or size == 1:
            yield batch


def _augment(images: Tensor, batch: Tensor, augmentation: str, generator: torch.Generator) -> Tensor:
    """The images at ``batch``, each shifted over a black border and mirrored at random."""
    if augmentation == "none":
        return images[batch.to(images.device)]
    side = images.shape[1]
    shift = side // 8
    rows = torch.arange(side) + torch.randint(-shift, shift + 1, (len(batch), 1), generator=generator)
    columns = torch.arange(side) + torch.randint(-shift, shift + 1, (len(batch), 1), generator=generator)
    if augmentation == "standard":
        mirrored = torch.rand(len(batch), 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    index = (batch[:, None, None], rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None, :])
    picked = images[tuple(part.to(images.device) for part in index)]
    return picked * inside[..., None].to(images.device)


@torch.inference_mode()
def evaluate(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, batch_size: int
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of ``weights`` on images ``(N, S, S, 3)`` and labels ``(N,)``, N at least 1."""
    model.load_state_dict(weights)
    model.eval()
    total_loss = torch.zeros((), dtype=torch.float64, device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    for start in range(0, len(labels), batch_size):
        target = labels[start : start + batch_size]
        logits = model(normalise(images[start : start + batch_size]))
        total_loss += F.cross_entropy(logits, target, reduction="sum").double()
        correct += (logits.argmax(1) == target).sum()
    return float(total_loss) / len(labels), int(correct) / len(labels)
