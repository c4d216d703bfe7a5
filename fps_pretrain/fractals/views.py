"""View augmentation of both methods, compiled and keyed (Chen et al., ICLR 2023, appendix; He et al., 2020).

RandomResizedCrop with scale (0.2, 1), ColorJitter(0.4, 0.4, 0.4, 0.1) with probability 0.8, grayscale with 0.2,
Gaussian blur of kernel 5 with 0.5, horizontal flip with 0.5, ImageNet normalisation: torchvision's definitions, drawn
from a view's own key. Loops run over whole rows or planes and choose by selection instead of by branches, for that is
what a compiler vectorises.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.compiled import compiled, kernel
from fps_pretrain.fractals.recipe import ViewNumbers
from fps_pretrain.fractals.rng import chance, integer, uniform_in
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD

CROP_TRIES = 10
# Slots of a view's key
SLOT_FLIP, SLOT_JITTER, SLOT_GREY, SLOT_BLUR, SLOT_SIGMA, SLOT_TOP, SLOT_LEFT = range(7)
SLOT_ORDER, SLOT_FACTORS, SLOT_CROP = 8, 12, 16

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class ViewScratch(NamedTuple):
    """What one thread needs to augment views of ``size`` pixels.

    Attributes:
        near: ``(size,)``, uint32, the source column on one side of an output column, and
        far: the one on the other side, with
        weight: ``(size,)``, uint64, its weight in units of 2^-13.
        lines: ``(6, size)``, float32, two lines of the source, resized, channel by channel.
        spread: uint64, a line of the source, its channels 21 bits apart.
        plane: ``(size^2,)``, float32, a channel between the two passes of the blur.
        sums: ``(size,)``, float32.
    """

    near: np.ndarray
    far: np.ndarray
    weight: np.ndarray
    lines: np.ndarray
    spread: np.ndarray
    plane: np.ndarray
    sums: np.ndarray


@compiled()
def empty_view_scratch(width: int, size: int) -> ViewScratch:
    """Scratch for views of ``size`` pixels of images up to ``width`` pixels wide."""
    return ViewScratch(
        np.empty(size, np.uint32),
        np.empty(size, np.uint32),
        np.empty(size, np.uint64),
        np.empty((6, size), np.float32),
        np.empty(width, np.uint64),
        np.empty(size * size, np.float32),
        np.empty(size, np.float32),
    )


def pack(image: np.ndarray) -> np.ndarray:
    """An image ``(..., 3)``, uint8 RGB, as packed colours ``(...)``, uint32, in bits 0, 8 and 16."""
    channels = image.astype(np.uint32)
    return channels[..., 0] | (channels[..., 1] << 8) | (channels[..., 2] << 16)


def unpack(colours: np.ndarray) -> np.ndarray:
    """Packed colours ``(...)``, uint32, as an image ``(..., 3)``, uint8 RGB."""
    return np.stack([(colours >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


@kernel()
def crop_box(height: int, width: int, numbers: ViewNumbers, key: np.uint64) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, by default of 20% to 100% of the area and aspect 3/4 to 4/3."""
    log_ratio = math.log(numbers.crop_ratio)
    for attempt in range(CROP_TRIES):
        area = height * width * uniform_in(key, SLOT_CROP + 2 * attempt, numbers.crop_low, numbers.crop_high)
        ratio = math.exp(uniform_in(key, SLOT_CROP + 2 * attempt + 1, -log_ratio, log_ratio))
        w = int(math.sqrt(area * ratio) + 0.5)
        h = int(math.sqrt(area / ratio) + 0.5)
        if 0 < w <= width and 0 < h <= height:
            return integer(key, SLOT_TOP, height - h + 1), integer(key, SLOT_LEFT, width - w + 1), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


@kernel(inline="always")
def _place(index: int, scale: np.float32, length: int) -> np.float32:
    """Where output pixel ``index`` lies in a source of ``length`` pixels, pixel centres at whole numbers."""
    s = (np.float32(index) + np.float32(0.5)) * scale - np.float32(0.5)
    s = s if s > _ZERO else _ZERO
    last = np.float32(length - 1)
    return s if s < last else last


@kernel()
def _resize_line(source: np.ndarray, left: int, width: int, scratch: ViewScratch, slot: int) -> None:
    """Resize the part of a line of packed colours that a crop shows to lines ``slot`` to ``slot`` + 2, in [0, 1].

    The products of three 8-bit channels and a 13-bit weight fit into one 64-bit number, 21 bits each.
    """
    near, far, weight, spread = scratch.near, scratch.far, scratch.weight, scratch.spread
    part = source[left:]
    for x in range(width):
        p = np.uint64(part[x])
        spread[x] = (
            (p & np.uint64(255))
            | ((p & np.uint64(255 << 8)) << np.uint64(13))
            | ((p & np.uint64(255 << 16)) << np.uint64(26))
        )
    red, green, blue = scratch.lines[slot], scratch.lines[slot + 1], scratch.lines[slot + 2]
    mask, scale = np.uint64(2**21 - 1), np.float32(1.0 / (255.0 * 8192.0))
    for x in range(near.size):
        w = weight[x]
        sums = (np.uint64(8192) - w) * spread[near[x]] + w * spread[far[x]]
        red[x] = np.float32(np.int32(sums & mask)) * scale
        green[x] = np.float32(np.int32((sums >> np.uint64(21)) & mask)) * scale
        blue[x] = np.float32(np.int32(sums >> np.uint64(42))) * scale


@kernel()
def resized_crop(
    image: np.ndarray, numbers: ViewNumbers, key: np.uint64, scratch: ViewScratch, out: np.ndarray
) -> None:
    """Crop an image at random, flip it or not, and resize it bilinearly.

    Args:
        image: ``(H, W)``, uint32: red, green and blue in bits 0, 8 and 16.
        numbers: the recipe's.
        key: the view's key.
        scratch: from ``empty_view_scratch``.
        out: output ``(3, size, size)``, float32, in [0, 1].
    """
    top, left, height, width = crop_box(image.shape[0], image.shape[1], numbers, key)
    flip = chance(key, SLOT_FLIP, numbers.mirror_probability)
    size = out.shape[1]
    scale_y, scale_x = np.float32(height) / np.float32(size), np.float32(width) / np.float32(size)
    for x in range(size):
        s = _place(x, scale_x, width)
        column = int(s)
        at = size - 1 - x if flip else x
        scratch.near[at] = column
        scratch.far[at] = min(column + 1, width - 1)
        scratch.weight[at] = np.uint64(np.int64((s - np.float32(column)) * np.float32(8192.0) + np.float32(0.5)))
    done = -1
    for y in range(size):
        s = _place(y, scale_y, height)
        line = int(s)
        below = min(line + 1, height - 1)
        wy = s - np.float32(line)
        # Lines of even number lie in the first half of the scratch, those of odd number in the second.
        for needed in (line, below):
            if needed > done:
                _resize_line(image[top + needed], left, width, scratch, 3 * (needed & 1))
                done = needed
        for c in range(3):
            upper, lower, target = scratch.lines[3 * (line & 1) + c], scratch.lines[3 * (below & 1) + c], out[c, y]
            for x in range(size):
                target[x] = upper[x] + wy * (lower[x] - upper[x])


@kernel(inline="always")
def _luma(r: np.float32, g: np.float32, b: np.float32) -> np.float32:
    return np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b


@kernel(inline="always")
def _clamp(value: np.float32) -> np.float32:
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


@kernel()
def brightness(out: np.ndarray, factor: float) -> None:
    """torchvision's ``adjust_brightness`` of ``out (3, size, size)``, in place."""
    flat = out.reshape(-1)
    f = np.float32(factor)
    for i in range(flat.size):
        flat[i] = _clamp(flat[i] * f)


@kernel()
def mean_luma(out: np.ndarray, sums: np.ndarray) -> np.float32:
    """The mean grey of ``out (3, size, size)``; ``sums (size,)``, float32, is scratch."""
    size = out.shape[1]
    sums[:] = _ZERO
    for y in range(size):
        red, green, blue = out[0, y], out[1, y], out[2, y]
        for x in range(size):
            sums[x] += _luma(red[x], green[x], blue[x])
    total = 0.0
    for x in range(size):
        total += sums[x]
    return np.float32(total / (size * size))


@kernel()
def contrast(out: np.ndarray, factor: float, sums: np.ndarray) -> None:
    """torchvision's ``adjust_contrast`` of ``out (3, size, size)``, in place; ``sums (size,)``, float32, is scratch."""
    f = np.float32(factor)
    offset = (_ONE - f) * mean_luma(out, sums)
    flat = out.reshape(-1)
    for i in range(flat.size):
        flat[i] = _clamp(flat[i] * f + offset)


@kernel()
def saturation(out: np.ndarray, factor: float) -> None:
    """torchvision's ``adjust_saturation`` of ``out (3, size, size)``, in place."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    f = np.float32(factor)
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        grey = (_ONE - f) * _luma(r, g, b)
        red[i] = _clamp(r * f + grey)
        green[i] = _clamp(g * f + grey)
        blue[i] = _clamp(b * f + grey)


@kernel(inline="always")
def _turned(sector: np.float32, offset: np.float32, value: np.float32, chroma: np.float32) -> np.float32:
    """A channel of a hue in sixths of a turn: one trapezoid, read at an offset of 5, 3 or 1."""
    k = sector + offset
    k = k if k < np.float32(6.0) else k - np.float32(6.0)
    falling = np.float32(4.0) - k
    k = k if k < falling else falling
    return value - chroma * _clamp(k)


@kernel()
def hue(out: np.ndarray, shift: float) -> None:
    """torchvision's ``adjust_hue`` of ``out (3, size, size)``, in place: by ``shift`` of a turn, -0.5 to 0.5."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    turn = np.float32(6.0 * shift)
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = r if r > g else g
        value = value if value > b else b
        least = r if r < g else g
        least = least if least < b else b
        chroma = value - least
        scale = _ONE / (chroma if chroma > _ZERO else _ONE)
        by_blue = np.float32(4.0) + (r - g) * scale
        by_green = np.float32(2.0) + (b - r) * scale
        by_red = (g - b) * scale
        sector = by_red if value == r else (by_green if value == g else by_blue)
        sector += turn
        sector = sector if sector >= _ZERO else sector + np.float32(6.0)
        sector = sector if sector < np.float32(6.0) else sector - np.float32(6.0)
        red[i] = _turned(sector, np.float32(5.0), value, chroma)
        green[i] = _turned(sector, np.float32(3.0), value, chroma)
        blue[i] = _turned(sector, np.float32(1.0), value, chroma)


@kernel()
def _color_jitter(out: np.ndarray, numbers: ViewNumbers, key: np.uint64, sums: np.ndarray) -> None:
    """Brightness, contrast, saturation and hue, each by a random amount, in random order."""
    done = 0
    for k in range(4):
        # The next of those not yet done: pick the j-th.
        j = integer(key, SLOT_ORDER + k, 4 - k)
        operation = 0
        while (done >> operation) & 1 or j > 0:
            j -= 1 - ((done >> operation) & 1)
            operation += 1
        done |= 1 << operation
        drawn = uniform_in(key, SLOT_FACTORS + operation, -1.0, 1.0)
        if operation == 0:
            brightness(out, 1.0 + numbers.brightness * drawn)
        elif operation == 1:
            contrast(out, 1.0 + numbers.contrast * drawn, sums)
        elif operation == 2:
            saturation(out, 1.0 + numbers.saturation * drawn)
        else:
            hue(out, numbers.hue * drawn)


@kernel()
def grayscale(out: np.ndarray) -> None:
    """torchvision's ``rgb_to_grayscale`` to three channels of ``out (3, size, size)``, in place."""
    red, green, blue = out[0].reshape(-1), out[1].reshape(-1), out[2].reshape(-1)
    for i in range(red.size):
        grey = _luma(red[i], green[i], blue[i])
        red[i] = grey
        green[i] = grey
        blue[i] = grey


@kernel()
def blur5(out: np.ndarray, sigma: float, plane: np.ndarray) -> None:
    """Gaussian blur with a kernel of 5, borders mirrored without repeating the edge, in place.

    Both passes run over a whole channel at once; what the first makes of the borders is then written over.

    Args:
        out: ``(3, size, size)``, float32, size at least 4.
        sigma: of the Gaussian, in pixels.
        plane: scratch, ``(size^2,)``, float32.
    """
    near = math.exp(-0.5 / (sigma * sigma))
    far = math.exp(-2.0 / (sigma * sigma))
    total = 1.0 + 2.0 * (near + far)
    w0, w1, w2 = np.float32(1.0 / total), np.float32(near / total), np.float32(far / total)
    size = out.shape[1]
    inside = size * size - 4
    for c in range(3):
        flat = out[c].reshape(-1)
        left2, left1, here, right1, right2 = flat, flat[1:], flat[2:], flat[3:], flat[4:]
        inner = plane[2:]
        for i in range(inside):
            inner[i] = w0 * here[i] + w1 * (left1[i] + right1[i]) + w2 * (left2[i] + right2[i])
        for y in range(size):
            row, target = flat[y * size : (y + 1) * size], plane[y * size : (y + 1) * size]
            a, b, d, e = row[0], row[1], row[2], row[3]
            target[0] = w0 * a + w1 * (b + b) + w2 * (d + d)
            target[1] = w0 * b + w1 * (a + d) + w2 * (b + e)
            a, b, d, e = row[size - 1], row[size - 2], row[size - 3], row[size - 4]
            target[size - 1] = w0 * a + w1 * (b + b) + w2 * (d + d)
            target[size - 2] = w0 * b + w1 * (d + a) + w2 * (e + b)
        up2, up1, centre, down1, down2 = plane, plane[size:], plane[2 * size :], plane[3 * size :], plane[4 * size :]
        middle = flat[2 * size :]
        for i in range(size * (size - 4)):
            middle[i] = w0 * centre[i] + w1 * (up1[i] + down1[i]) + w2 * (up2[i] + down2[i])
        end = size * (size - 1)
        below_top, above_bottom, bottom = flat[size:], flat[end - size :], flat[end:]
        for x in range(size):
            a, b, d, e = up2[x], up1[x], centre[x], down1[x]
            flat[x] = w0 * a + w1 * (b + b) + w2 * (d + d)
            below_top[x] = w0 * b + w1 * (a + d) + w2 * (b + e)
        last, second, third, fourth = plane[end:], plane[end - size :], plane[end - 2 * size :], plane[end - 3 * size :]
        for x in range(size):
            a, b, d, e = last[x], second[x], third[x], fourth[x]
            bottom[x] = w0 * a + w1 * (b + b) + w2 * (d + d)
            above_bottom[x] = w0 * b + w1 * (d + a) + w2 * (e + b)


@kernel()
def augment(image: np.ndarray, numbers: ViewNumbers, key: np.uint64, scratch: ViewScratch, out: np.ndarray) -> None:
    """One random view of an image.

    Args:
        image: ``(H, W)``, uint32: red, green and blue in bits 0, 8 and 16.
        numbers: the recipe's.
        key: the view's random key.
        scratch: from ``empty_view_scratch`` for at least W and exactly the size of the view.
        out: output ``(3, size, size)``, float32, C-contiguous, normalised with ImageNet's mean and deviation.
    """
    resized_crop(image, numbers, key, scratch, out)
    if chance(key, SLOT_JITTER, numbers.colour_probability):
        _color_jitter(out, numbers, key, scratch.sums)
    if chance(key, SLOT_GREY, numbers.grey_probability):
        grayscale(out)
    if chance(key, SLOT_BLUR, numbers.blur_probability):
        blur5(out, uniform_in(key, SLOT_SIGMA, numbers.blur_low, numbers.blur_high), scratch.plane)
    for c in range(3):
        mean, scale = np.float32(IMAGENET_MEAN[c]), np.float32(1.0 / IMAGENET_STD[c])
        plane = out[c].reshape(-1)
        for i in range(plane.size):
            plane[i] = (plane[i] - mean) * scale
