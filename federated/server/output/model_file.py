"""A run's classifier as a file: model.pt after the last round, best.pt of the best one (``--keep-best``).

    {"format": "fps-classifier", "version": 2, "arch": "resnet20", "width": 1, "norm": "batch", "image_size": 32,
     "classes": [...], "round": 100, "state_dict": {...encoder and head...}}

best.pt also has the ``val_accuracy`` by which it was chosen. With ``--personal head`` a file says ``"personal": True``,
since the head is the one that it began with. Files from before ``norm`` and ``image_size`` were written take them from
config.yaml beside them. ``digest`` is that of the weights; older files have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from federated.config.data import MAX_IMAGE_SIZE
from federated.config.run import RunConfig, from_yaml
from federated.server.output import file_names
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text
from fps_pretrain.models.checksum import check_digest, digest
from fps_pretrain.models.tensor_file import read_file, write_atomically

FORMAT = "fps-classifier"
VERSION = 2


@dataclass(frozen=True)
class Model:
    """What such a file holds.

    Attributes:
        path: the file.
        arch: the encoder's architecture.
        width: its width multiplier.
        norm: its normalisation layers, batch or group.
        image_size: side of the images it was trained on, in pixels.
        classes: the names of the classes, in the order of the outputs.
        round: after which round this is; None in older files.
        weights: the state dict of encoder and head.
        personal: whether clients kept their heads to themselves, so that this one is not trained.
    """

    path: Path
    arch: str
    width: int
    norm: str
    image_size: int
    classes: tuple[str, ...]
    round: int | None
    weights: Mapping[str, Tensor]
    personal: bool = False


def write(
    path: Path, config: RunConfig, classes: Sequence[str], round_: int, weights: Mapping[str, Tensor], **more: Any
) -> None:
    """Write a classifier file, whole or not at all; ``more`` are further plain values for it."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "arch": config.arch,
        "width": config.width,
        "norm": config.norm,
        "image_size": config.image_size,
        "classes": list(classes),
        "round": round_,
        **more,
        **({"personal": True} if config.personal == "head" else {}),
        "digest": digest(weights),
        "state_dict": dict(weights),
    }
    write_atomically(path, content)


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the highest validation accuracy, the earliest of equals; None if no row has one."""
    measured = [row for row in rows if row.get("val_accuracy") is not None]
    return max(measured, key=lambda row: row["val_accuracy"], default=None)


def keep_best(
    folder: Path,
    config: RunConfig,
    classes: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    round_: int,
    weights: Mapping[str, Tensor],
) -> None:
    """Write best.pt if the last completed round is the best so far.

    Call it once a round is complete on disk, and again before the next: a run that was killed in between then writes
    what it had not.

    Args:
        folder: the run folder.
        config: the run.
        classes: the names of the classes.
        rows: those of all rounds that are completed.
        round_: the last of them.
        weights: the model after it.
    """
    best = best_row(rows)
    if best is not None and best["round"] == round_:
        write(folder / file_names.BEST, config, classes, round_, weights, val_accuracy=best["val_accuracy"])


def read(path: Path) -> Model:
    """Read a classifier file (.pt, or the same as .safetensors).

    Raises:
        UserError: the file is missing, damaged or something else, or its class names do not fit its head.
    """
    content = read_file(path)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise UserError(f"{path} is not a classifier of a run, version {VERSION}")
    if "digest" in content:
        weights = content.get("state_dict")
        if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise UserError(f"{path} is damaged: it has no weights")
        check_digest(path, weights, content["digest"])
    content = {**_from_config(path, content), **content}
    try:
        model = Model(
            path,
            str(content["arch"]),
            int(content["width"]),
            str(content["norm"]),
            int(content["image_size"]),
            tuple(str(name) for name in content["classes"]),
            content.get("round"),
            content["state_dict"],
            bool(content.get("personal", False)),
        )
        outputs = len(model.weights["head.weight"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged: {error} is missing or of another kind than it should be") from error
    if model.norm not in ("batch", "group") or not 8 <= model.image_size <= MAX_IMAGE_SIZE:
        raise UserError(f"{path} is damaged: no model has norm {model.norm!r} and images of {model.image_size} pixels")
    if len(model.classes) != outputs:
        raise UserError(f"{path} is damaged: it names {len(model.classes)} classes and its head has {outputs} outputs")
    return model


def _from_config(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What an older file lacks, from the run's configuration beside it."""
    if {"norm", "image_size"} <= content.keys():
        return {}
    beside = path.parent / file_names.CONFIG
    try:
        config = from_yaml(read_text(beside))
    except UserError as error:
        raise UserError(f"{path} does not say its image size: keep it beside the run's config.yaml") from error
    return {"norm": config.norm, "image_size": config.image_size}
