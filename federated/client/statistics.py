"""Sums over a client's images that the server asks for before the first round."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.client.batch_norm import tracking_layers
from fps_pretrain.common.keys import seed_of
from fps_pretrain.images.pixels import normalise


@torch.no_grad()
def batch_norm_sums(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, batch_size: int, key: tuple[int, int]
) -> dict[str, Tensor]:
    """A client's part of ``pooled_statistics``: what goes into each BatchNorm, added up over its images.

    No labels and no gradients. BatchNorm is in training mode, all else in evaluation mode, where nothing is random.

    Args:
        model: lends its structure, ``encoder`` and ``head``; on the device of ``images``.
        weights: the classifier's.
        images: uint8 ``(N, S, S, 3)``.
        batch_size: the most images in a batch, but for one of three where a single image would be left; batches differ
            by one image at most.
        key: ``(seed, client)``, which fixes the batches.

    Returns:
        ``LAYER.sum`` and ``LAYER.squares`` ``(C,)``, over images and places, and ``LAYER.count`` of these ``()``, all
        float64 on the CPU, and ``batches`` ``()``, int64. From a single image, which is no batch, all are zero.
    """
    model.load_state_dict(weights)
    model.eval()
    layers = tracking_layers(model)
    zeros = {name: torch.zeros(layer.num_features, dtype=torch.float64) for name, layer in layers.items()}
    sums = {f"{name}.{what}": zeros[name].clone() for name in layers for what in ("sum", "squares")}
    sums |= {f"{name}.count": torch.zeros((), dtype=torch.float64) for name in layers}

    def add_up(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            values = inputs[0].double().transpose(0, 1).flatten(1)  # (C, images and places)
            sums[f"{name}.sum"] += values.sum(1).cpu()
            sums[f"{name}.squares"] += values.square().sum(1).cpu()
            sums[f"{name}.count"] += values.shape[1]

        return hook

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed_of(key[0], "statistics", key[1])))
    parts = min(-(-len(images) // batch_size), len(images) // 2)
    batches = order.tensor_split(parts) if parts else ()
    handles = [layer.train().register_forward_pre_hook(add_up(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            model.get_submodule("encoder")(normalise(images[batch.to(images.device)]))
    finally:
        for handle in handles:
            handle.remove()
    return {**sums, "batches": torch.tensor(len(batches))}


@torch.inference_mode()
def class_sums(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, num_classes: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """A client's part of ``centroid_head``: its features summed by class.

    Args:
        model: lends its structure, ``encoder`` and ``head``.
        weights: the classifier's; its encoder makes the features, with BatchNorm's running statistics.
        images: uint8 ``(N, S, S, 3)``.
        labels: int64 ``(N,)``.
        num_classes: C.
        batch_size: images that are encoded at a time.

    Returns:
        Sums ``(C, D)``, float64, and how many examples of each class stand behind them ``(C,)``, int64; on the CPU.
    """
    model.load_state_dict(weights)
    model.eval()
    encoder = model.get_submodule("encoder")
    parts = [encoder(normalise(images[i : i + batch_size])).double() for i in range(0, len(labels), batch_size)]
    features = torch.cat(parts).cpu()
    one_hot = F.one_hot(labels.cpu(), num_classes)
    return one_hot.double().T @ features, one_hot.sum(0)
