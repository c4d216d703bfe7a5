"""A partition as a file, ``partition.npz``: two plain arrays, which are checked when they are read back."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from federated.data.partition import Partition
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import open_atomically


def save_partition(path: Path, partition: Partition) -> None:
    """Write all indices, one client after the other, and where each client ends."""
    with open_atomically(path) as file:
        np.savez(file, indices=np.concatenate(partition), ends=np.cumsum([len(part) for part in partition]))


def load_partition(path: Path) -> Partition:
    """Read what ``save_partition`` wrote.

    Raises:
        UserError: the file is missing or damaged, or an example belongs to no client or to two.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            indices, ends = file["indices"].astype(np.int64), file["ends"].astype(np.int64)
        if not (len(ends) and ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == len(indices)):
            raise ValueError("clients do not end one after the other")
        if not np.array_equal(np.sort(indices), np.arange(len(indices))):
            raise ValueError("indices are not those of all examples, each once")
        return np.split(indices, ends[:-1])
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is missing or damaged: remove the run folder and start the run again") from error
