"""safetensors files: the tensors of a checkpoint, and beside them, in the metadata, all else that it holds.

The metadata of such a file are strings. Ours has two: ``format`` is ``pt``, as other libraries expect, and ``fps`` is
the checkpoint's dictionary without its tensors, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_bytes_atomically

SUFFIX = ".safetensors"

_KEY = "fps"


def write(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a checkpoint, a dictionary whose ``state_dict`` holds its tensors; its folder is made.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: _alone(tensor) for name, tensor in payload["state_dict"].items()}
    rest = {name: value for name, value in payload.items() if name != "state_dict"}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, save(tensors, {"format": "pt", _KEY: json.dumps(rest, default=str)}))


def _alone(tensor: Tensor) -> Tensor:
    """A tensor in row-major order that shares its memory with no other, which the format demands."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def read(path: Path) -> dict[str, Any]:
    """What ``write`` was given, or, from another program's file, a dictionary with the tensors as ``state_dict``.

    Raises:
        UserError: the file is truncated or no safetensors file, or the metadata that are ours are damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file") from error
    try:
        rest = json.loads(metadata.get(_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata") from error
    if not isinstance(rest, dict):
        raise UserError(f"{path} has damaged metadata")
    return {**rest, "state_dict": tensors}
