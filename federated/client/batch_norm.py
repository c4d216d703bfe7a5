"""BatchNorm in a federation: whose statistics a model carries, and how to do without.

A model's parameters are what algorithms combine. Its buffers, BatchNorm's running means and variances and its count of
batches, are not weights: no server optimiser, clipping or noise may touch them. ``--bn-stats`` says what becomes of
them after a round:

- ``average``: the mean of the clients', weighted by examples; of the counts the maximum.
- ``local``: as ``average`` for the server's copy, by which the global model is judged and saved; but each client keeps
  its own from round to round and is judged by them (SiloBN, Andreux et al. 2020, "Siloed Federated Learning for
  Multi-Centric Histopathology Datasets", section 3: statistics stay local, affine parameters are shared).
- ``server``: clients send none; the server estimates them anew on its validation images, without their labels (Li et
  al. 2017, "Revisiting Batch Normalization For Practical Domain Adaptation", section 3: AdaBN).

In training mode BatchNorm normalises by the batch: the choice changes how a model is judged, not what it learns, but
for algorithms that judge models while they train, or choose clients by a distance.

``--init-statistics`` says which statistics a run begins with: those that come with ``--init``, or, with ``clients``,
those of the clients' images; see ``pooled_statistics``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from federated.client.parts import is_frozen
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import seed_of
from fps_pretrain.images.pixels import normalise
from fps_pretrain.models.encoders import build_classifier, build_encoder

CHANNELS_PER_GROUP = 8
"""Two groups in ResNet-20's narrowest stage. Wu & He (2018, "Group Normalization", table 3) find 8 to 64 channels to a
group about equally good."""


def with_norm(model: nn.Module, norm: str) -> nn.Module:
    """The model for ``--norm``: as it is for batch; for group with GroupNorm in the place of each BatchNorm.

    GroupNorm knows no batches and no statistics, so that clients with different data do not disagree about them (Hsieh
    et al. 2020, "The Non-IID Data Quagmire of Decentralized Machine Learning", section 5). The affine parameters of a
    warm start are kept.
    """
    if norm == "batch":
        return model
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _group_norm(child))
    return model


def model_structure(arch: str, width: int, norm: str, num_classes: int) -> nn.Module:
    """A run's model, always the same, that lends its structure: its weights are replaced before it is used.

    Args:
        arch: the encoder's architecture, ``--arch``.
        width: its width multiplier.
        norm: its normalisation layers, ``--norm``.
        num_classes: outputs of the head.
    """
    return with_norm(build_classifier(build_encoder(arch, width, seed=0), num_classes, seed=0), norm)


def _group_norm(batch_norm: _BatchNorm) -> nn.GroupNorm:
    channels = batch_norm.num_features
    groups = channels // CHANNELS_PER_GROUP if channels % CHANNELS_PER_GROUP == 0 else 1
    norm = nn.GroupNorm(groups, channels, batch_norm.eps, batch_norm.affine)
    if batch_norm.affine:
        with torch.no_grad():
            norm.weight.copy_(batch_norm.weight)
            norm.bias.copy_(batch_norm.bias)
    return norm


def parameter_names(model: nn.Module) -> frozenset[str]:
    """The names in the model's state dict that are parameters; all others are buffers."""
    return frozenset(name for name, _ in model.named_parameters())


def buffers_of(weights: Mapping[str, Tensor], parameters: frozenset[str]) -> dict[str, Tensor]:
    """The entries of a state dict that are no parameters."""
    return {name: tensor for name, tensor in weights.items() if name not in parameters}


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, batch_size: int
) -> dict[str, Tensor]:
    """The buffers of ``weights`` with BatchNorm's statistics taken from images: the mean over batches of equal weight.

    Images are shuffled, always alike: they may lie class by class, and a batch of one class has too small a variance.
    Layers that are frozen (``--train last-block``) keep theirs.

    Args:
        model: lends its structure; on the device of ``images``.
        weights: a state dict of it.
        images: uint8 ``(N, S, S, 3)``.
        batch_size: images in a batch, at least 2 all the same; a last batch of one is left out.

    Raises:
        UserError: there are fewer than two images.
    """
    if len(images) < 2:
        raise UserError("BatchNorm's statistics need two images or more to be estimated from: raise --validation")
    model.load_state_dict(weights)
    model.eval()  # but for BatchNorm: dropout, say, stays out of what is judged
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and not is_frozen(module)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch's way to ask for a plain mean
    try:
        for batch in shuffled(len(images)).split(max(2, batch_size)):
            if len(batch) > 1:
                model(normalise(images[batch.to(images.device)]))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    names = parameter_names(model)
    return {name: tensor.detach().cpu().clone() for name, tensor in buffers_of(model.state_dict(), names).items()}


def shuffled(count: int) -> Tensor:
    """Indices ``(count,)`` in an order that depends on nothing else."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(0, "order of statistics")))


def has_statistics(model: nn.Module) -> bool:
    """Whether a model has BatchNorm layers with running statistics."""
    return bool(tracking_layers(model))


def tracking_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that have running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
