"""Encoded images and tables for the tests of whatever reads them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """An image ``(H, W, 3)`` or ``(H, W)`` as a file of that kind."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def grey(level: int = 0, size: int = 9) -> bytes:
    """A square PNG of one grey level."""
    return encoded(np.full((size, size, 3), level, np.uint8))


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that claims this size, and no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def write_table(path: Path, images: Any, labels: Any, image: str = "img", label: str = "label") -> None:
    """A Parquet file in the Hugging Face layout: images as bytes, or cells of any kind."""
    cells = [{"bytes": cell, "path": None} if isinstance(cell, bytes) else cell for cell in images]
    pyarrow.parquet.write_table(pyarrow.table({image: cells, label: labels}), path)
