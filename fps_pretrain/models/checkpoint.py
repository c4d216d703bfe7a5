"""The encoder file: what pre-training writes and federated learning starts from.

A checkpoint is a plain dictionary that ``torch.load(weights_only=True)`` reads:

    {"format": "fps-encoder", "version": 1, "arch": "resnet20", "width": 1,
     "state_dict": {...encoder without head...}, "provenance": {"digest": SHA-256 of the weights, ...}}

The digest is verified when the file is loaded.

``NAME.safetensors`` holds the same (``safetensors_file``). ``load_encoder_weights`` also takes what users already have:
bare state dicts, ``{"state_dict": ...}`` or ``{"model": ...}`` around one, Lightning checkpoints, and the usual
prefixes. A classifier head in them is ignored. Nothing is ever unpickled beyond tensors and plain containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fps_pretrain.common.errors import UserError, printable
from fps_pretrain.common.files import keep_existing
from fps_pretrain.models import shipped
from fps_pretrain.models.checksum import as_weights, check_digest, digest
from fps_pretrain.models.encoders import Encoder, build_encoder
from fps_pretrain.models.provenance import plain_provenance
from fps_pretrain.models.tensor_file import read_file, write_checkpoint

FORMAT = "fps-encoder"
VERSION = 1
MIN_MATCHED = 0.9
"""Share of the encoder's tensors a foreign file must match; a ResNet-20 shares no more than 0.6 with a ResNet-32."""

_PREFIXES = ("module", "model", "encoder", "encoder_q", "backbone", "net", "features")
_HEADS = ("fc", "linear", "head", "classifier", "projector", "predictor", "projection_head", "prediction_head")

MOST_PREFIXES = 8
"""Prefixes before a tensor's name that are looked at; files have two or three."""


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
            text += f"; left as initialised: {printable(', '.join(self.missing))}"
        if self.unexpected:
            text += f"; not used: {printable(', '.join(self.unexpected))}"
        return text


def digest_held(path: Path) -> str | None:
    """The digest of the weights in an encoder checkpoint, if it records the same; None for anything else."""
    try:
        content = read_file(path)
        recorded, weights = content["provenance"]["digest"], content["state_dict"]
        check_digest(path, weights, recorded)
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    return str(recorded)


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
    if path.exists() and digest_held(path) == weights_digest:
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


def in_half_precision(content: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder checkpoint's content at half the size: matrices and kernels in float16, all vectors as they are.

    ``load_encoder_weights`` gives float32 again. The vectors are BatchNorm's, whose variances float16 cannot hold.

    Raises:
        UserError: a weight is beyond float16's range.
    """
    state = {name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in content["state_dict"].items()}
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise UserError("a weight is larger than half precision can hold: write it without --half")
    provenance = {**plain_provenance(content.get("provenance")), "stored_in": "float16", "digest": digest(state)}
    return {**content, "state_dict": state, "provenance": provenance}


def _matches(candidate: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [n for n, tensor in candidate.items() if n in expected and tensor.shape == expected[n].shape]


def _best_group(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the prefix that fits the encoder best (a MoCo file holds two encoders: the query one wins)."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        # "features" is a wrapper in some files and a part of the encoder in others.
        for cut in range(min(len(parts), MOST_PREFIXES + 1)):
            groups.setdefault(".".join(parts[:cut]), {})[".".join(parts[cut:])] = tensor
            if parts[cut] not in _PREFIXES:
                break
    return max(groups.values(), key=lambda group: len(_matches(group, expected)), default={})


def is_encoder_file(content: Mapping[Any, Any]) -> bool:
    """Whether a file's content says that it is an encoder checkpoint of this project."""
    form = content.get("format")
    return isinstance(form, str) and form == FORMAT


def _architecture_in(path: Path | str, content: Mapping[Any, Any]) -> tuple[str, int]:
    """Architecture and width that an encoder checkpoint names.

    Raises:
        UserError: it is of another version, or names none.
    """
    version, arch, width = (content.get(name) for name in ("version", "arch", "width"))
    if type(version) is not int or version != VERSION:
        shown = version if type(version) is int else f"of type {type(version).__name__}"
        raise UserError(f"{path} is version {shown} of the encoder format; this reads {VERSION}")
    if not isinstance(arch, str) or type(width) is not int:
        raise UserError(f"{path} is damaged: it does not name its architecture and width")
    return arch, width


def load_encoder_weights(path: Path | str, encoder: nn.Module, arch: str, width: int = 1) -> LoadReport:
    """Load a checkpoint's weights into ``encoder`` in place.

    Args:
        path: an encoder checkpoint, or any file the module's docstring names.
        encoder: the module to fill; the classifier head is not part of it and stays fresh.
        arch: the encoder's architecture, to say which one to ask for when the file holds another.
        width: the encoder's width multiplier.

    Raises:
        UserError: the file cannot be read (``read_file``), is of another architecture or width, or fewer than
            ``MIN_MATCHED`` of the encoder's tensors match by name and shape; or its weights are not finite real
            numbers, or not those whose digest it records. The encoder is then unchanged.
    """
    content = read_file(Path(path))
    provenance: dict[str, Any] = {}
    if is_encoder_file(content):
        found = _architecture_in(path, content)
        if found != (arch, width):
            raise UserError(
                f"{path} holds {found[0]} of width {found[1]}, not {arch} of width {width}: "
                f"pass --arch {found[0]} --width {found[1]}"
            )
        provenance = plain_provenance(content.get("provenance"))
    of_group_norm = content.get("norm") == "group"
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {n: value for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no weights: expected a state dict, or a dictionary with a 'state_dict'")

    expected = encoder.state_dict()
    if of_group_norm:  # it has no statistics, and the encoder's stay
        expected = {name: expected[name] for name, _ in encoder.named_parameters()}
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
    loaded = {name: as_weights(path, name, candidate[name], expected[name]) for name in matched}
    if "digest" in provenance:
        check_digest(path, tensors, provenance["digest"])
    encoder.load_state_dict(loaded, strict=False)
    return LoadReport(str(path), len(matched), missing, unexpected, provenance)


def load_encoder(path: Path | str, arch: str | None = None, width: int = 1) -> Encoder:
    """The encoder of a checkpoint, ready to use.

    Args:
        path: an encoder checkpoint, which names its architecture, another file that ``load_encoder_weights`` reads,
            the name of a shipped encoder, such as ``fps_r20``, or ``hf:OWNER/NAME[@REVISION][:FILE]`` on the hub.
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
    if is_encoder_file(content) and arch is None:
        arch, width = _architecture_in(path, content)
    if arch is None:
        raise UserError(f"{path} does not name its architecture: pass arch, such as 'resnet18'")
    if content.get("norm") == "group":
        raise UserError(f"{path} has GroupNorm in BatchNorm's place: start a federation from it with --norm group")
    encoder = build_encoder(arch, width, seed=0)
    load_encoder_weights(path, encoder, arch, width)
    return encoder.eval()
