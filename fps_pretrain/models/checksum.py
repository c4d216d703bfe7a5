"""Checksums in files of tensors and plain values: what was changed after it was written is noticed when it is read."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fps_pretrain.common.errors import UserError

KEY = "checksum"
"""The entry of a dictionary that holds the checksum of all others."""


def has_a_wrong_checksum(path: Path) -> bool:
    """Whether a part of an archive of torch's differs from the checksum it was written with; torch does not look."""
    if not zipfile.is_zipfile(path):
        return False  # torch's form before version 1.6 has no checksums
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return True


def why_not_plain(tensor: Tensor) -> str | None:
    """What keeps a tensor from being plain numbers in memory, in a word or two; None for one that is."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return "sparse or nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.device.type == "meta":
        return "without values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "expanded"
    return None


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 over all keys, types, shapes and values of nested dictionaries and lists of tensors and plain values.

    Raises:
        ValueError: a tensor is not plain, see ``why_not_plain``.
        RecursionError: the content is nested without end.
    """
    sha = hashlib.sha256()
    _add(sha, content)
    return sha.hexdigest()


def _add(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        if reason := why_not_plain(value):
            raise ValueError(f"a tensor is {reason}")
        tensor = value.detach().cpu().contiguous()
        sha.update(f"tensor {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        sha.update(f"mapping {len(value)}\n".encode())
        for name, item in value.items():
            _add(sha, name)
            _add(sha, item)
    elif isinstance(value, (list, tuple)):
        sha.update(f"sequence {len(value)}\n".encode())
        for item in value:
            _add(sha, item)
    else:
        sha.update(f"{value!r}\n".encode("utf-8", "backslashreplace"))


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with its checksum."""
    return {**content, KEY: checksum(content)}


def is_intact(content: Mapping[str, Any]) -> bool:
    """Whether content is as it was written; content without a checksum, from an earlier version, is."""
    try:
        return KEY not in content or content[KEY] == checksum({n: v for n, v in content.items() if n != KEY})
    except (ValueError, RuntimeError, TypeError):  # RecursionError is a RuntimeError
        return False


def check_checksum(path: object, content: Mapping[str, Any]) -> None:
    """Refuse content that is not as it was written.

    Raises:
        UserError: its checksum is another.
    """
    if not is_intact(content):
        raise UserError(f"{path} is damaged: its checksum does not fit its content")


def why_misfit(found: object, like: Mapping[str, Tensor]) -> str | None:
    """What keeps ``found`` from being finite tensors with the names, shapes and types of ``like``; None if it is."""
    if not isinstance(found, Mapping) or not isinstance(like, Mapping) or set(found) != set(like):
        return "it has other tensors than the model"
    for name, expected in like.items():
        tensor = found[name]
        if not isinstance(tensor, Tensor) or why_not_plain(tensor):
            return f"{name} is no plain tensor"
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            return f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {expected.dtype} {tuple(expected.shape)}"
        if not torch.isfinite(tensor).all():
            return f"{name} has values that are not finite"
    return None


NEVER_NEGATIVE = ("running_var", "num_batches_tracked")
"""Ends of the names of BatchNorm's variances and counts."""

LARGEST = 1e15
"""A weight beyond this is damage: squared and added up it would leave the range of float32."""


def as_weights(path: object, name: str, tensor: Tensor, expected: Tensor) -> Tensor:
    """A tensor of a file in the type of the encoder's.

    Raises:
        UserError: it is not plain, not of real numbers, or has values that are not finite in that type or impossible.
    """
    if reason := why_not_plain(tensor):
        raise UserError(f"{path}: the tensor {name} is {reason}")
    if (
        tensor.is_complex()
        or tensor.dtype == torch.bool
        or (expected.is_floating_point() and not tensor.is_floating_point())
    ):
        raise UserError(f"{path}: the tensor {name} is of type {str(tensor.dtype).removeprefix('torch.')}")
    weights = tensor.to(expected.dtype)
    if not (torch.isfinite(tensor).all() and torch.isfinite(weights).all()):
        raise UserError(f"{path} holds values that are not finite in {name}: the training behind it diverged")
    if name.endswith(NEVER_NEGATIVE) and (weights < 0).any():
        raise UserError(f"{path} holds values below 0 in {name}, which no training makes")
    if (weights.abs() > LARGEST).any():
        raise UserError(f"{path} holds values beyond {LARGEST:g} in {name}, which no training makes")
    return weights


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in name order: the same weights, the same digest."""
    sha = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "backslashreplace"))
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def check_digest(path: object, tensors: Mapping[str, Tensor], recorded: object) -> None:
    """Refuse weights that are not those whose digest a checkpoint records.

    Raises:
        UserError: the digest is another, or a tensor is not plain numbers.
    """
    for name, tensor in tensors.items():
        if reason := why_not_plain(tensor):
            raise UserError(f"{path}: the tensor {name!r} is {reason}")
    if digest(tensors) != recorded:
        raise UserError(f"{path} is damaged: its weights do not have the digest that it records")
