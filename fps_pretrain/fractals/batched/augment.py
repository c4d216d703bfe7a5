"""View augmentation of many views at once: ``augment.view.augment`` and what it calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fps_pretrain.fractals.augment.slots import (
    CROP_TRIES,
    SLOT_BLUR,
    SLOT_CROP,
    SLOT_FACTORS,
    SLOT_FLIP,
    SLOT_GREY,
    SLOT_JITTER,
    SLOT_LEFT,
    SLOT_ORDER,
    SLOT_SIGMA,
    SLOT_TOP,
)
from fps_pretrain.fractals.batched.colours import spread
from fps_pretrain.fractals.batched.rng import integers, uniforms
from fps_pretrain.fractals.recipe_numbers import ViewNumbers
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD


def crop_boxes(height: int, width: int, numbers: ViewNumbers, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``augment.crop.crop_box`` for keys ``(N,)``: top, left, height and width, each ``(N,)``, int64."""
    attempt = torch.arange(CROP_TRIES, device=keys.device)
    area = height * width * uniforms(keys[:, None], SLOT_CROP + 2 * attempt, numbers.crop_low, numbers.crop_high)
    log_ratio = math.log(numbers.crop_ratio)
    ratio = uniforms(keys[:, None], SLOT_CROP + 2 * attempt + 1, -log_ratio, log_ratio).exp()
    w, h = ((area * ratio).sqrt() + 0.5).long(), ((area / ratio).sqrt() + 0.5).long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    side = min(height, width)
    any_fits = fits.any(1)
    w, h = (torch.where(any_fits, t.gather(1, first)[:, 0], side) for t in (w, h))
    top = torch.where(any_fits, integers(keys, SLOT_TOP, height - h + 1), (height - side) // 2)
    left = torch.where(any_fits, integers(keys, SLOT_LEFT, width - w + 1), (width - side) // 2)
    return top, left, h, w


def resized_crops(images: Tensor, numbers: ViewNumbers, keys: Tensor, size: int) -> Tensor:
    """``augment.crop.resized_crop`` of packed images ``(N, H, W)``: ``(N, 3, size, size)``, float32, in [0, 1]."""
    count, full_height, full_width = images.shape
    top, left, height, width = crop_boxes(full_height, full_width, numbers, keys)
    flip = uniforms(keys, SLOT_FLIP) < numbers.mirror_probability
    pixel = torch.arange(size, device=images.device)

    def axis(start: Tensor, length: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = length.float() / torch.full_like(length, size, dtype=torch.float32)
        s = (positions.float() + 0.5) * scale[:, None] - 0.5
        s = torch.minimum(s.clamp(min=0.0), (length - 1)[:, None].float())
        near = s.long()
        far = torch.minimum(near + 1, (length - 1)[:, None])
        return start[:, None] + near, start[:, None] + far, s - near.float()

    upper, lower, wy = axis(top, height, pixel.expand(count, -1))
    near, far, weight = axis(left, width, torch.where(flip[:, None], size - 1 - pixel, pixel))
    wx = (weight * 8192.0 + 0.5).long()[:, None, :]
    flat = spread(images).view(count, -1)

    def lines(rows: Tensor) -> Tensor:
        base = rows[:, :, None] * full_width
        a, b = (flat.gather(1, (base + c[:, None, :]).view(count, -1)).view(count, size, size) for c in (near, far))
        sums = (8192 - wx) * a + wx * b
        channels = [(sums >> shift) & (2**21 - 1) for shift in (0, 21, 42)]
        return torch.stack(channels, dim=1).float() * (1.0 / (255.0 * 8192.0))

    above = lines(upper)
    return above + wy[:, None, :, None] * (lines(lower) - above)


def _luma(x: Tensor) -> Tensor:
    """The grey of ``x (N, 3, size, size)``, ITU-R 601: ``(N, 1, size, size)``."""
    return (0.299 * x[:, :1] + 0.587 * x[:, 1:2]) + 0.114 * x[:, 2:]


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """``augment.colour.hue`` of ``x (N, 3, size, size)``, by ``shift (N, 1, 1, 1)`` of a turn."""
    r, g, b = x[:, :1], x[:, 1:2], x[:, 2:]
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    scale = torch.where(chroma > 0.0, chroma, 1.0).reciprocal()
    other = torch.where(value == g, 2.0 + (b - r) * scale, 4.0 + (r - g) * scale)
    sector = torch.where(value == r, (g - b) * scale, other) + (6.0 * shift).float()
    sector = torch.where(sector >= 0.0, sector, sector + 6.0)
    sector = torch.where(sector < 6.0, sector, sector - 6.0)
    k = sector + torch.tensor([5.0, 3.0, 1.0], device=x.device)[:, None, None]
    k = torch.where(k < 6.0, k, k - 6.0)
    return value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)


def _color_jittered(x: Tensor, numbers: ViewNumbers, keys: Tensor) -> Tensor:
    """``augment.colour.color_jitter`` of ``x (N, 3, size, size)``; every view has its own order of operations."""
    drawn = [uniforms(keys, SLOT_FACTORS + k, -1.0, 1.0)[:, None, None, None] for k in range(4)]
    strengths = (numbers.brightness, numbers.contrast, numbers.saturation)
    brightness, contrast, saturation = ((1.0 + s * d).float() for s, d in zip(strengths, drawn[:3], strict=True))
    shift = numbers.hue * drawn[3]
    left = torch.ones(len(keys), 4, dtype=torch.bool, device=keys.device)
    for k in range(4):
        # Choose the j-th of the operations that are left.
        j = integers(keys, SLOT_ORDER + k, 4 - k)
        chosen = left & (left.cumsum(1) == (j + 1)[:, None])
        left = left & ~chosen
        bright, _, saturated, turned = chosen[:, :, None, None, None].unbind(1)
        mean = _luma(x).mean((2, 3), keepdim=True)
        grey = torch.where(saturated, (1.0 - saturation) * _luma(x), (1.0 - contrast) * mean)
        mixed = torch.where(bright, x * brightness, x * torch.where(saturated, saturation, contrast) + grey)
        x = torch.where(turned, _hue(x, shift), mixed.clamp(0.0, 1.0))
    return x


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """``augment.blur.blur5`` of ``x (N, 3, size, size)`` with ``sigma (N,)``."""
    near, far = (-0.5 / (sigma * sigma)).exp(), (-2.0 / (sigma * sigma)).exp()
    total = 1.0 + 2.0 * (near + far)
    w0, w1, w2 = ((w / total).float()[:, None, None, None] for w in (torch.ones_like(near), near, far))
    padded = torch.nn.functional.pad(x, (2, 2, 0, 0), mode="reflect")
    size = x.shape[-1]
    parts = [padded[..., k : k + size] for k in range(5)]
    rows = (w0 * parts[2] + w1 * (parts[1] + parts[3])) + w2 * (parts[0] + parts[4])
    padded = torch.nn.functional.pad(rows, (0, 0, 2, 2), mode="reflect")
    parts = [padded[..., k : k + size, :] for k in range(5)]
    return (w0 * parts[2] + w1 * (parts[1] + parts[3])) + w2 * (parts[0] + parts[4])


def augment(images: Tensor, numbers: ViewNumbers, keys: Tensor, size: int) -> Tensor:
    """One augmented view of each image.

    Args:
        images: ``(N, H, W)``, int64, packed colours.
        numbers: the recipe's.
        keys: ``(N,)``, int64, the views' augmentation keys.
        size: side of the views in pixels.

    Returns:
        ``(N, 3, size, size)``, float32, normalised with ImageNet's mean and deviation.
    """

    def happens(slot: int, probability: float) -> Tensor:
        return (uniforms(keys, slot) < probability)[:, None, None, None]

    x = resized_crops(images, numbers, keys, size)
    x = torch.where(happens(SLOT_JITTER, numbers.colour_probability), _color_jittered(x, numbers, keys), x)
    x = torch.where(happens(SLOT_GREY, numbers.grey_probability), _luma(x), x)
    blurred = _blurred(x, uniforms(keys, SLOT_SIGMA, numbers.blur_low, numbers.blur_high))
    x = torch.where(happens(SLOT_BLUR, numbers.blur_probability), blurred, x)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) * std.reciprocal()
