"""From encoded images to uint8 RGB arrays of one size.

OpenCV decodes. Before that the header alone says how large an image is, so that one of 100,000 x 100,000 pixels costs
no memory.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_regular_file
from fps_pretrain.images.table import Images

MAX_PIXELS = 2**27
"""Pixels of the largest image that is decoded: 134 million, 400 MB."""

MAX_ASPECT = 256
"""Longest side of an image over its shortest. Resizing the short side lengthens the long one in proportion."""

MAX_FILE_BYTES = 2**29
"""Length of the longest image file that is read."""

_PNG = b"\x89PNG\r\n\x1a\n"

_PNG_END = b"IEND\xaeB`\x82"
"""The last chunk of every PNG. OpenCV refuses a file without it, but libpng first prints a line of its own."""

# Pillow reads headers only. Its warnings of large images and odd metadata would add lines to our one.
warnings.filterwarnings("ignore", module=r"PIL\.")

# So would what OpenCV logs of a damaged image; whoever wants to see that says so, as OpenCV has it.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image_file(path: Path) -> bytes:
    """The encoded bytes of an image file.

    Raises:
        UserError: it is not a regular file (nor a link to one), is too long, or cannot be read.
    """
    return read_regular_file(path, MAX_FILE_BYTES)


def read_image(path: Path) -> Images:
    """An image file as ``(H, W, 3)``, uint8 RGB, whatever it was stored as.

    Raises:
        UserError: the file cannot be read or decoded, or the image is too large.
    """
    return decode(read_image_file(path), path)


def decode(encoded: bytes, name: object) -> Images:
    """An encoded image as ``(H, W, 3)``, uint8 RGB; grey ones have three equal channels, transparency is dropped.

    Args:
        encoded: a file's content, in a format that OpenCV reads.
        name: what error messages call it.

    Raises:
        UserError: it is not an image, or one of more than ``MAX_PIXELS`` or ``MAX_ASPECT``.
    """
    width, height = _header_size(encoded, name)
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(
            f"{name} is an image of {width} x {height} pixels; "
            f"at most {MAX_PIXELS:,} are read, and a long side of {MAX_ASPECT} times the short one"
        )
    if encoded.startswith(_PNG) and encoded.rfind(_PNG_END) < 0:
        raise _no_image(name)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise _no_image(name)
    return image.astype(np.uint8, copy=False)


def _no_image(name: object) -> UserError:
    return UserError(f"{name} is not an image that OpenCV can decode: remove or replace it")


def _header_size(encoded: bytes, name: object) -> tuple[int, int]:
    """Width and height in pixels, as the header has them."""
    if encoded.startswith(_PNG) and len(encoded) >= 24:  # they come first; Pillow would check what follows, too
        width, height = struct.unpack(">II", encoded[16:24])
        return width, height
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is an image too large to be read: at most {MAX_PIXELS:,} pixels are") from error
    except Exception as error:  # each of Pillow's formats has its own errors for what is not of that format
        raise _no_image(name) from error


def decode_all(readers: Sequence[Callable[[], bytes]], names: Sequence[object], image_size: int) -> Images:
    """Encoded images to ``(N, S, S, 3)``, uint8 RGB, in four threads: OpenCV decodes outside of the interpreter's lock.

    Args:
        readers: for each image a function that returns its encoded bytes.
        names: what error messages call each.
        image_size: side of the squares in pixels; see ``fit``.

    Raises:
        UserError: an image cannot be read.
    """
    images = np.empty((len(readers), image_size, image_size, 3), np.uint8)

    def decode_row(row: int) -> None:
        images[row] = fit(decode(readers[row](), names[row]), image_size)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(decode_row, range(len(readers))):
            pass
    return images


def decode_files(paths: Sequence[Path], image_size: int) -> Images:
    """``decode_all`` of files, each called by its path."""
    return decode_all([partial(read_image_file, path) for path in paths], paths, image_size)


def pack(images: Iterable[Images], image_size: int) -> Images:
    """Decoded images ``(H, W, 3)`` to ``(N, S, S, 3)``; see ``fit``. None at all to an empty array."""
    fitted = [fit(image, image_size) for image in images]
    return np.stack(fitted) if fitted else np.empty((0, image_size, image_size, 3), np.uint8)


def fit(image: NDArray[Any], size: int) -> Images:
    """An image ``(H, W, 3)`` as ``(size, size, 3)``: the short side resized, the middle cropped; as it is if it fits.

    Shrinking averages (INTER_AREA), enlarging interpolates linearly.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    new = max(size, round(width * scale)), max(size, round(height * scale))
    resized = cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    return np.ascontiguousarray(resized[top : top + size, left : left + size])
