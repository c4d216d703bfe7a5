"""Colours of many objects at once. Packed and spread colours are int64; see ``compose.colours``."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.rng import uniforms
from fps_pretrain.fractals.compose.colours import HUE_WEIGHTS
from fps_pretrain.fractals.recipe import Recipe


def pack(colours: Tensor) -> Tensor:
    """``compose.colours.packed`` of spread colours."""
    return (colours & 255) | ((colours >> 13) & (255 << 8)) | ((colours >> 26) & (255 << 16))


def spread(colours: Tensor) -> Tensor:
    """``compose.colours.spread`` of packed colours."""
    return (colours & 255) | ((colours & (255 << 8)) << 13) | ((colours & (255 << 16)) << 26)


def draw_colours(recipe: Recipe, keys: Tensor, slot: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw hue shifts, saturations and values as ``compose.colours.draw_colours``: float64, shaped as ``keys``."""
    numbers = recipe.image
    return (
        uniforms(keys, slot, 0.0, numbers.hue_range),
        uniforms(keys, slot + 1, numbers.saturation_low, numbers.saturation_high),
        uniforms(keys, slot + 2, numbers.value_low, numbers.value_high),
    )


def colour(grey_images: Tensor, shift: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colour grey images: the entries of ``compose.colours.colour_table``.

    Args:
        grey_images: ``(N, ...)``, int32, 0 for nothing, else 1 + grey.
        shift: ``(N,)``, float64, the hue of grey 0.
        saturation: ``(N,)``, float64, in [0, 1].
        value: ``(N,)``, float64, in [0, 1].

    Returns:
        Spread colours ``(N, ...)``, 0 for nothing.
    """
    shape = (-1,) + (1,) * (grey_images.dim() - 1)
    weights = torch.from_numpy(HUE_WEIGHTS[:, :256].copy()).to(grey_images.device)
    hue = (grey_images - 1 + shift.int().view(shape)) & 255
    s = ((saturation * 255.0).long() / 255.0).float().view(shape)
    v = (value * 255.0).long().float().view(shape)
    colours = torch.zeros_like(hue, dtype=torch.int64)
    for c in range(3):
        colours |= (v - v * s * weights[c][hue] + 0.5).long() << (21 * c)
    return torch.where(grey_images > 0, colours, 0)
