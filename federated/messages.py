"""Flower's records: arrays as state dicts and back, without a NumPy file written or parsed for every tensor.

Flower holds an array as the bytes of a ``.npy`` file, whose header NumPy's reader evaluates as Python text. For a
ResNet-20 (116 tensors) Flower takes 2.4 ms to write a record and 6.6 ms to read it. With headers that are made once,
and only compared, it is half a millisecond each.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from torch import Tensor

FIXED = "fixed"
"""Name of the record with what never changes of a model; ``fixed-once`` in a message's configuration says that it comes
once and is to be kept, and which one it is."""

STYPE = "numpy.ndarray"
"""Flower's name for the way in which an array is written."""

with warnings.catch_warnings():
    # PyTorch warns once that a message's bytes must not be written to. Nobody writes.
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


class Layout(NamedTuple):
    """How a tensor of a type and shape is written.

    Attributes:
        dtype: NumPy's name of the type.
        shape: its shape.
        header: the bytes before its values.
        size: how many bytes its values take.
    """

    dtype: str
    shape: tuple[int, ...]
    header: bytes
    size: int


@cache
def layout(dtype: torch.dtype, size: tuple[int, ...]) -> Layout:
    """How ``numpy.save`` writes an array of a type and shape in C order."""
    shape = tuple(size)  # torch.Size prints otherwise
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return Layout(str(kind), shape, buffer.getvalue(), int(np.prod(shape, dtype=np.int64)) * kind.itemsize)


def to_record(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """The record that ``ArrayRecord(weights)`` is, byte for byte; the tensors are on the CPU."""
    arrays = {}
    for name, tensor in weights.items():
        dtype, shape, header, _ = layout(tensor.dtype, tensor.shape)
        data = b"".join((header, tensor.detach().contiguous().numpy().data))
        array = arrays[name] = Array.__new__(Array)
        vars(array).update(dtype=dtype, shape=shape, stype=STYPE, data=data)
    return _record_of(arrays)


def copy_of(record: ArrayRecord) -> ArrayRecord:
    """A record of its own over the same arrays."""
    return _record_of(dict(record.items()))


def _record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """A record of arrays of our own making, which need not be checked one by one: that takes longer than the rest."""
    record = ArrayRecord()
    vars(record)["_data"].update(arrays)
    return record


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of a record by name, on the CPU, in memory of their own. For records of our own making."""
    return {name: _read(array) for name, array in record.items()}


def read_array(array: Array, like: Tensor) -> Tensor | None:
    """An array as a tensor over its bytes, not to be written to; None if it is not, to the byte, one like ``like``."""
    dtype, shape, header, size = layout(like.dtype, like.shape)
    data = array.data
    if array.dtype != dtype or tuple(array.shape) != shape or array.stype != STYPE:
        return None
    if not isinstance(data, bytes) or len(data) != len(header) + size or not data.startswith(header):
        return None
    return _values(data, header, like.dtype, shape)


def _read(array: Array) -> Tensor:
    dtype = _torch_type(array.dtype)
    header = layout(dtype, tuple(array.shape)).header
    if not array.data.startswith(header):
        # Written in Fortran order, say: Flower's own reader knows.
        return torch.from_numpy(array.numpy())
    return _values(array.data, header, dtype, tuple(array.shape)).clone()


def _values(data: bytes, header: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if len(data) == len(header):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, offset=len(header)).view(shape)


@cache
def _torch_type(dtype: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def whole_number(told: ConfigRecord, name: str, default: int | None = None) -> int:
    """An integer in a message's configuration, whose values may be of any of Flower's types.

    Raises:
        KeyError: there is none of that name, and no default.
        ValueError: it is no integer.
    """
    return int(str(told[name] if default is None else told.get(name, default)))
