"""Augmentation of a batch of training images, drawn from the client's own generator."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.models.hardware import on_device


def augment(images: Tensor, batch: Tensor, augmentation: str, generator: torch.Generator) -> Tensor:
    """The images at ``batch``, each shifted over a black border and mirrored at random.

    Args:
        images: uint8 ``(N, S, S, 3)``, on the device that trains.
        batch: indices ``(B,)``, on the CPU.
        augmentation: none; crop (a shift by up to an eighth of the side); standard (crop and a horizontal flip).
        generator: draws on the CPU, whatever the device, so that a GPU trains on the same images.

    Returns:
        uint8 ``(B, S, S, 3)``.
    """
    if augmentation == "none":
        return images[on_device(batch, images.device)]
    side = images.shape[1]
    shift = side // 8
    rows = torch.arange(side) + torch.randint(-shift, shift + 1, (len(batch), 1), generator=generator)
    columns = torch.arange(side) + torch.randint(-shift, shift + 1, (len(batch), 1), generator=generator)
    if augmentation == "standard":
        mirrored = torch.rand(len(batch), 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    index = (batch[:, None, None], rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None, :])
    picked = images[tuple(on_device(part, images.device) for part in index)]
    return picked * on_device(inside[..., None], images.device)
