"""Files of tensors and plain values: written whole or not at all, read without running anything they hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import open_atomically
from fps_pretrain.models import safetensors_file
from fps_pretrain.models.checksum import check_checksum, has_a_wrong_checksum


def write_atomically(path: Path, payload: object) -> None:
    """``torch.save`` to ``path``, whole or not at all (``common.files.open_atomically``); its folder is made.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            # torch's archive writer reports its half archive as a RuntimeError. Raise instead what cut it short: Ctrl-C
            # or a full disk, whose error gets the file's name from ``open_atomically``.
            raise error.__context__ or error from None


def write_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a dictionary with a ``state_dict``, as safetensors where the name of the file says so.

    Raises:
        OSError: the file cannot be written.
    """
    if path.suffix == safetensors_file.SUFFIX:
        safetensors_file.write(path, payload)
    else:
        write_atomically(path, payload)


def _is_whole_pickle(path: Path) -> bool:
    """Whether a file is an archive of torch's (which a truncated one is not) or begins as a binary pickle does."""
    with path.open("rb") as file:
        begins_as_pickle = file.read(1) == pickle.PROTO
    return begins_as_pickle or zipfile.is_zipfile(path)


def read_file(path: Path) -> dict[str, Any]:
    """Whatever dictionary of tensors and plain values the file holds; a .safetensors file's, too.

    Raises:
        UserError: the file is missing, truncated, no checkpoint, or holds objects other than tensors and plain values.
    """
    if path.is_dir():
        raise UserError(f"checkpoint {path} is a folder: name a file")
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; make one with run_pretrain.py or name another file")
    if path.suffix == safetensors_file.SUFFIX:
        return safetensors_file.read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of pickles that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
            damaged = has_a_wrong_checksum(path)
    except Exception as error:  # torch raises many kinds here; each means that the file is no usable checkpoint
        if isinstance(error, pickle.UnpicklingError) and _is_whole_pickle(path):
            reason = "holds Python objects other than tensors and plain values, which are never executed or loaded"
        else:
            reason = "is truncated or not a PyTorch checkpoint"
        raise UserError(f"{path} {reason}") from error
    if damaged:
        raise UserError(f"{path} is damaged: its content does not fit its checksums")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def read_with_checksum(path: Path) -> dict[str, Any]:
    """``read_file`` of what ``checksum.with_checksum`` made; a file of an earlier version may have no checksum.

    Raises:
        UserError: it is missing, cannot be read, or is not as it was written.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    content = read_file(path)
    check_checksum(path, content)
    return content
