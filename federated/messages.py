"""Flower's array records as state dicts, without a NumPy file parsed for every tensor.

Flower holds an array as the bytes of a ``.npy`` file, and NumPy's reader evaluates its header as Python text: 6.6 ms
for a ResNet-20, 0.3 ms when a header that was seen before is only compared. The way back, ``ArrayRecord(state_dict)``,
is Flower's own and fast enough.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor


class KeptRecord(ArrayRecord):
    """An array record that is not emptied when it is read.

    Some of Flower's strategies ask for that, and Flower then collects garbage after every client: 0.3 s each.
    """

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[NDArray]:
        """The arrays; the record stays as it is."""
        return super().to_numpy_ndarrays()


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of a record by name, on the CPU, in memory of their own."""
    return {name: torch.from_numpy(_read(array)) for name, array in record.items()}


def _read(array: Array) -> NDArray:
    header = _header(array.dtype, tuple(array.shape))
    if not array.data.startswith(header):
        # Written in Fortran order, say: Flower's own reader knows.
        return array.numpy()
    values = np.frombuffer(array.data, dtype=array.dtype, offset=len(header))
    # A copy, because torch would write into the record's read-only bytes all the same.
    return values.reshape(array.shape).copy()


@cache
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header ``numpy.save`` writes before the values of an array in C order."""
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()
