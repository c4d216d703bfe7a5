"""A partition as a file, ``partition.npz``: two plain arrays, which are checked when they are read back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from federated.data.partition import Partition
from fps_pretrain.common.arrays import NoArrays, read_arrays
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import open_atomically


def digest_of(partition: Partition) -> str:
    """SHA-256 over which client holds which example."""
    sha = hashlib.sha256()
    for part in partition:
        sha.update(f"{len(part)}\n".encode())
        sha.update(part.astype("<i8").tobytes())
    return sha.hexdigest()


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
        indices, ends = read_arrays(path, "indices", "ends")
        if any(array.ndim != 1 or array.dtype != np.int64 for array in (indices, ends)):
            raise ValueError("the arrays are no lists of 64-bit whole numbers")
        if not (len(ends) and ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == len(indices)):
            raise ValueError("clients do not end one after the other")
        if not np.array_equal(np.sort(indices), np.arange(len(indices))):
            raise ValueError("indices are not those of all examples, each once")
        return np.split(indices, ends[:-1])
    except (NoArrays, ValueError) as error:
        raise UserError(f"{path} is missing or damaged: remove the run folder and start the run again") from error
