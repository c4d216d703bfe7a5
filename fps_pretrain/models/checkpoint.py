"""The encoder file: what pre-training writes and federated learning starts from.

A checkpoint is a plain dictionary that ``torch.load(weights_only=True)`` reads:

    {"format": "fps-encoder", "version": 1, "arch": "resnet20", "width": 1,
     "state_dict": {...encoder without head...}, "provenance": {...}}

``NAME.safetensors`` holds the same (``safetensors_file``). ``load_encoder_weights`` also takes what users already have:
bare state dicts, ``{"state_dict": ...}`` or ``{"model": ...}`` around one, Lightning checkpoints, and the usual
prefixes. A classifier head in them is ignored. Nothing is ever unpickled beyond tensors and plain containers.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import keep_existing, open_atomically
from fps_pretrain.models import safetensors_file, shipped
from fps_pretrain.models.encoders import Encoder, build_encoder

FORMAT = "fps-encoder"
VERSION = 1
MIN_MATCHED = 0.9
"""Share of the encoder's tensors a foreign file must match; a ResNet-20 shares no more than 0.6 with a ResNet-32."""

_PREFIXES = ("module", "model", "encoder", "encoder_q", "backbone", "net", "features")
_HEADS = ("fc", "linear", "head", "classifier", "projector", "predictor", "projection_head", "prediction_head")


@dataclass(frozen=True)
class LoadReport:
    """What loading a checkpoint did: how many tensors matched, and the names of those that did not."""

    path: str
    matched: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        total = self.matched + len(self.missing)
        text = f"{self.path}: {self.matched} of {total} encoder tensors loaded"
        if self.missing:
            text += f"; left as initialised: {', '.join(self.missing)}"
        if self.unexpected:
            text += f"; not used: {', '.join(self.unexpected)}"
        return text


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in name order: the same weights, the same digest."""
    sha = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write_atomically(path: Path, payload: object) -> None:
    """``torch.save`` to ``path``, whole or not at all (``common.files.open_atomically``); its folder is made.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_atomically(path) as file:
            torch.save(payload, file)
    except RuntimeError as error:
        # torch's archive writer reports its half archive as a RuntimeError. Raise what cut it short instead: Ctrl-C, or
        # a full disk.
        raise error.__context__ or error from None


def _stored_digest(path: Path) -> str | None:
    try:
        return read_file(path)["provenance"]["digest"]
    except (UserError, KeyError, TypeError):
        return None


def save_encoder(
    path: Path, encoder: nn.Module, arch: str, width: int, provenance: Mapping[str, Any]
) -> tuple[str, Path | None]:
    """Write the encoder checkpoint; an existing file is kept beside it, unless it holds the same weights.

    Args:
        path: where; a name that ends in .safetensors makes a file of that format.
        encoder: what is saved.
        arch: its architecture.
        width: its width multiplier.
        provenance: how it was made, plain values.

    Returns:
        The digest of the weights, and where an earlier file of that name is now (None if it did not have to move).
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in encoder.state_dict().items()}
    weights_digest = digest(state)
    if path.exists() and _stored_digest(path) == weights_digest:
        return weights_digest, None
    kept = keep_existing(path)
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "arch": arch,
        "width": width,
        "state_dict": state,
        "provenance": {**provenance, "digest": weights_digest},
    }
    write_checkpoint(path, payload)
    return weights_digest, kept


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
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; make one with run_pretrain.py or name another file")
    if path.suffix == safetensors_file.SUFFIX:
        return safetensors_file.read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of pickles that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means that the file is no usable checkpoint
        if isinstance(error, pickle.UnpicklingError) and _is_whole_pickle(path):
            reason = "holds Python objects other than tensors and plain values, which are never executed or loaded"
        else:
            reason = "is truncated or not a PyTorch checkpoint"
        raise UserError(f"{path} {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _matches(candidate: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [n for n, tensor in candidate.items() if n in expected and tensor.shape == expected[n].shape]


def _best_group(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the prefix that fits the encoder best (a MoCo file holds two encoders: the query one wins)."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        for cut in range(len(parts)):  # "features" is a wrapper in some files and a part of the encoder in others
            groups.setdefault(".".join(parts[:cut]), {})[".".join(parts[cut:])] = tensor
            if parts[cut] not in _PREFIXES:
                break
    return max(groups.values(), key=lambda group: len(_matches(group, expected)), default={})


def load_encoder_weights(path: Path | str, encoder: nn.Module, arch: str, width: int = 1) -> LoadReport:
    """Load a checkpoint's weights into ``encoder`` in place.

    Args:
        path: an encoder checkpoint, or any file the module's docstring names.
        encoder: the module to fill; the classifier head is not part of it and stays fresh.
        arch: the encoder's architecture, to say which one to ask for when the file holds another.
        width: the encoder's width multiplier.

    Raises:
        UserError: the file cannot be read (``read_file``), is of another architecture or width, or fewer than
            ``MIN_MATCHED`` of the encoder's tensors match by name and shape. The encoder is then unchanged.
    """
    content = read_file(Path(path))
    provenance: dict[str, Any] = {}
    if content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise UserError(f"{path} is version {content.get('version')} of the encoder format; this reads {VERSION}")
        found = (content.get("arch"), content.get("width"))
        if found != (arch, width):
            raise UserError(
                f"{path} holds {found[0]} of width {found[1]}, not {arch} of width {width}: "
                f"pass --arch {found[0]} --width {found[1]}"
            )
        provenance = dict(content.get("provenance") or {})
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no weights: expected a state dict, or a dictionary with a 'state_dict'")

    expected = encoder.state_dict()
    candidate = {
        name: tensor
        for name, tensor in _best_group(tensors, expected).items()
        if name in expected or name.split(".")[0] not in _HEADS
    }
    matched = _matches(candidate, expected)
    missing = sorted(set(expected) - set(matched))
    unexpected = sorted(set(candidate) - set(matched))
    # Tensors that are there but unused betray a deeper network whose first layers happen to fit.
    if len(matched) < MIN_MATCHED * max(len(expected), len(candidate)):
        raise UserError(
            f"{path} does not fit {arch} of width {width}: {len(matched)} of {len(expected)} encoder tensors match, "
            f"{len(unexpected)} others do not; pass the --arch and --width it was trained with"
        )
    non_finite = [name for name in matched if not torch.isfinite(candidate[name]).all()]
    if non_finite:
        raise UserError(f"{path} holds values that are not finite in {non_finite[0]}: the training behind it diverged")
    encoder.load_state_dict({name: candidate[name] for name in matched}, strict=False)
    return LoadReport(str(path), len(matched), missing, unexpected, provenance)


def load_encoder(path: Path | str, arch: str | None = None, width: int = 1) -> Encoder:
    """The encoder of a checkpoint, ready to use.

    Args:
        path: an encoder checkpoint, which names its architecture, another file that ``load_encoder_weights`` reads, or
            the name of a shipped encoder, such as ``fps_r20``.
        arch: the architecture of a file that does not name one.
        width: its width multiplier.

    Returns:
        A module from images ``(N, 3, H, W)``, normalised as ``images.pixels.normalise`` does, to features
        ``(N, encoder.feature_dim)``, in evaluation mode; ``encoder.train()`` before training it further.

    Raises:
        UserError: the file cannot be read, or is not of the architecture.
    """
    path = shipped.resolve(path)
    content = read_file(path)
    if content.get("format") == FORMAT and arch is None:
        arch, width = str(content.get("arch")), int(content.get("width") or 1)
    if arch is None:
        raise UserError(f"{path} does not name its architecture: pass arch, such as 'resnet18'")
    encoder: Encoder = build_encoder(arch, width, seed=0)
    load_encoder_weights(path, encoder, arch, width)
    return encoder.eval()
