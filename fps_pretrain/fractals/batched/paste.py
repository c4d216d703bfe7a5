"""Pasting of one object into each of many views, and the blur of views."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.colours import pack


def paste(
    images: Tensor, image: Tensor, sides: Tensor, tops: Tensor, lefts: Tensor, orientations: Tensor, size: int
) -> Tensor:
    """``compose.paste.paste`` of one object into each of M empty views.

    Args:
        images: ``(N, s, s)``, int64, spread colours.
        image: ``(M,)``, which image each view gets.
        sides: ``(M,)``, the objects' sides in the view, in pixels.
        tops: ``(M,)``, rows of the objects' upper left corners.
        lefts: ``(M,)``, columns of these corners.
        orientations: ``(M,)``: bit 0 transposes, bit 1 flips vertically, bit 2 flips horizontally.
        size: side of a view.

    Returns:
        Packed colours ``(M, size, size)``, int64, 0 outside the object.
    """
    source = images.shape[1]
    scale = torch.tensor(float(source), device=images.device) / sides.float()
    pixel = torch.arange(size, device=images.device)

    def axis(corner: Tensor, flip: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        at = pixel - corner[:, None]
        inside = (at >= 0) & (at < sides[:, None])
        s = ((at.float() + 0.5) * scale[:, None] - 0.5).clamp(0.0, source - 1.0)
        near = s.long()
        weight = ((s - near.float()) * 8192.0 + 0.5).long()
        far = (near + 1).clamp(max=source - 1)
        flipped = flip[:, None] != 0
        return (
            inside,
            torch.where(flipped, source - 1 - near, near),
            torch.where(flipped, source - 1 - far, far),
            weight,
        )

    inside_y, near_y, far_y, weight_y = axis(tops, orientations & 2)
    inside_x, near_x, far_x, weight_x = axis(lefts, orientations & 4)
    transpose = (orientations & 1)[:, None]
    row_step, column_step = torch.where(transpose != 0, 1, source), torch.where(transpose != 0, source, 1)
    near_y, far_y = (near_y * row_step)[:, :, None], (far_y * row_step)[:, :, None]
    near_x, far_x = (near_x * column_step)[:, None, :], (far_x * column_step)[:, None, :]
    base = (image * (source * source))[:, None, None]
    colours = images.view(-1)
    wy, wx = weight_y[:, :, None], weight_x[:, None, :]
    wd = (wy * wx + 4096) >> 13
    wc, wb = wy - wd, wx - wd
    wa = 8192 - wx - wc
    total = wa * colours[base + near_y + near_x] + wb * colours[base + near_y + far_x]
    total += wc * colours[base + far_y + near_x] + wd * colours[base + far_y + far_x]
    total += 4096 | (4096 << 21) | (4096 << 42)
    return torch.where(inside_y[:, :, None] & inside_x[:, None, :], pack(total >> 13), 0)


def blur3(views: Tensor, sigma: Tensor) -> Tensor:
    """``compose.paste.blur3`` of views ``(M, size, size)``, int64, packed colours, with ``sigma (M,)``."""
    side = (-0.5 / (sigma * sigma)).exp()
    w0 = (1.0 / (1.0 + 2.0 * side)).float()[:, None, None]
    w1 = (side / (1.0 + 2.0 * side)).float()[:, None, None]
    size = views.shape[1]
    index = torch.arange(size, device=views.device)
    before, after = (index - 1).abs(), size - 1 - (size - 2 - index).abs()
    result = torch.zeros_like(views)
    for c in range(3):
        channel = ((views >> (8 * c)) & 255).float()
        rows = w0 * channel + w1 * (channel[:, :, before] + channel[:, :, after])
        result |= (w0 * rows + w1 * (rows[:, before] + rows[:, after]) + 0.5).long() << (8 * c)
    return result
