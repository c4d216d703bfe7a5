"""Colours of objects, and how colours are packed into integers.

A packed colour is a uint32 with red, green and blue in bits 0, 8 and 16. A spread colour is a uint64 with the channels
in bits 0, 21 and 42: one product with a weight of 13 bits serves all three channels.
"""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.recipe_numbers import ImageNumbers
from fps_pretrain.fractals.rng import uniform_in


def pack(image: np.ndarray) -> np.ndarray:
    """Pack an image ``(..., 3)``, uint8 RGB: colours ``(...)``, uint32."""
    channels = image.astype(np.uint32)
    return channels[..., 0] | (channels[..., 1] << 8) | (channels[..., 2] << 16)


def unpack(colours: np.ndarray) -> np.ndarray:
    """Unpack colours ``(...)``, uint32: an image ``(..., 3)``, uint8 RGB."""
    return np.stack([(colours >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


@kernel(inline="always")
def spread(colour: np.uint32) -> np.uint64:
    """Spread a packed colour."""
    c = np.uint64(colour)
    return (
        (c & np.uint64(255))
        | ((c & np.uint64(255 << 8)) << np.uint64(13))
        | ((c & np.uint64(255 << 16)) << np.uint64(26))
    )


@kernel(inline="always")
def packed(colour: np.uint64) -> np.uint32:
    """Pack a spread colour."""
    return np.uint32(
        (colour & np.uint64(255))
        | ((colour >> np.uint64(13)) & np.uint64(255 << 8))
        | ((colour >> np.uint64(26)) & np.uint64(255 << 16))
    )


def _hue_weights() -> np.ndarray:
    """By how much saturation lowers each channel, at every hue in OpenCV's 8-bit units of 2 degrees.

    Returns:
        ``(3, 512)``, float32, from 0 to 1: the 256 hues, twice, so that a shifted table needs no modulo.
    """
    sector = (np.arange(512) % 256 % 180) / 30.0
    distance = np.stack([(sector + offset) % 6.0 for offset in (5.0, 3.0, 1.0)])
    return np.clip(np.minimum(distance, 4.0 - distance), 0.0, 1.0).astype(np.float32)


HUE_WEIGHTS = _hue_weights()


@kernel()
def colour_table(shift: float, saturation: float, value: float, table: np.ndarray) -> None:
    """Compute the colour of every value of a grey image (see ``render``): hue = (grey + shift) mod 256.

    HSV to RGB by OpenCV's 8-bit convention: hue in units of 2 degrees, which wraps at 180, saturation and value in
    steps of 1 / 255 (authors' release).

    Args:
        shift: the hue of grey 0, in [0, 255).
        saturation: in [0, 1].
        value: in [0, 1].
        table: output ``(257,)``, uint64, spread colours; element 0 stands for nothing and is black.
    """
    s = np.float32(int(saturation * 255.0) / 255.0)
    v = np.float32(int(value * 255.0))
    half = np.float32(0.5)
    start = int(shift)
    red_weights, green_weights, blue_weights = HUE_WEIGHTS[0, start:], HUE_WEIGHTS[1, start:], HUE_WEIGHTS[2, start:]
    table[0] = np.uint64(0)
    colours = table[1:]
    for grey in range(256):
        red = np.int32(v - v * s * red_weights[grey] + half)
        green = np.int32(v - v * s * green_weights[grey] + half)
        blue = np.int32(v - v * s * blue_weights[grey] + half)
        colours[grey] = np.uint64(red) | (np.uint64(green) << np.uint64(21)) | (np.uint64(blue) << np.uint64(42))


@kernel()
def draw_colours(
    numbers: ImageNumbers, shift_key: np.uint64, shift_slot: int, key: np.uint64, slot: int, table: np.ndarray
) -> None:
    """Draw the hue shift, saturation and value of an object and compute its colours.

    Args:
        numbers: the recipe's.
        shift_key: the key of the hue shift.
        shift_slot: the slot of the hue shift.
        key: the key of saturation and value, which are at ``slot`` + 1 and ``slot`` + 2.
        slot: of the object's colour.
        table: output, see ``colour_table``.
    """
    shift = uniform_in(shift_key, shift_slot, 0.0, numbers.hue_range)
    saturation = uniform_in(key, slot + 1, numbers.saturation_low, numbers.saturation_high)
    colour_table(shift, saturation, uniform_in(key, slot + 2, numbers.value_low, numbers.value_high), table)
