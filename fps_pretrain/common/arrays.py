"""Arrays in a ``.npz`` file, read with one error for whatever is wrong with it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**32
"""Bytes of the largest arrays that are read, unpacked."""

_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),
)
"""What NumPy and zipfile raise over files that are no archives of arrays, damaged or encrypted."""


class NoArrays(Exception):
    """A file does not hold the arrays that it should."""


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """The arrays of these names. Nothing is unpickled, and a FIFO or device is not waited for.

    Raises:
        NoArrays: there is no such file, or it is damaged, too large, or something else.
    """
    if not path.is_file():
        raise NoArrays(f"{path} is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_BYTES:
                raise NoArrays(f"{path} unpacks to more than {MAX_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except _UNREADABLE as error:
        raise NoArrays(str(error)) from error
