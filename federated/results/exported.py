"""What an export is made of: the module that computes, and the dictionary that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from federated.results.classifier import build_module, check_exists, check_head, find_model
from federated.server.output import model_file
from federated.server.output.model_file import Model
from federated.server.output.run_folder import RunFolder
from fps_pretrain.common.errors import UserError
from fps_pretrain.models import checkpoint
from fps_pretrain.models.checksum import digest

Part = Literal["classifier", "encoder"]

ENCODER_SIZE = 32
"""Side in pixels of the images that an encoder checkpoint is exported for, unless another is asked for."""


@dataclass(frozen=True)
class Export:
    """A model to write.

    Attributes:
        path: the file it comes from.
        part: what it is.
        name: what its file is called, without suffix.
        module: normalised images ``(N, 3, S, S)`` to logits or features, in evaluation mode.
        image_size: S, in pixels.
        payload: the checkpoint's dictionary, as ``federated.server.output.model_file`` or
            ``fps_pretrain.models.checkpoint`` write it.
    """

    path: Path
    part: Part
    name: str
    module: nn.Module
    image_size: int
    payload: Mapping[str, Any]


def find(source: Path, part: Part | None, *, best: bool, client: int | None = None, image_size: int | None) -> Export:
    """The model of a run folder, a classifier file or an encoder checkpoint.

    Args:
        source: folder or file.
        part: what is wanted; None for the classifier, if there is one.
        best: take a run's best round.
        client: take this client's model; see ``load_classifier``.
        image_size: see ``ENCODER_SIZE``; only for an encoder checkpoint.

    Raises:
        UserError: there is nothing of that name, the run has not finished, the file is damaged or something else, or it
            has no such part.
    """
    check_exists(source)
    if source.is_dir() or checkpoint.read_file(source).get("format") == model_file.FORMAT:
        if image_size is not None:
            raise UserError("--image-size is for encoder checkpoints: a run knows its own")
        model = find_model(source, best=best, client=client)
        export = _encoder_of(model) if part == "encoder" else _classifier(model)
        return export if client is None else replace(export, name=f"{export.name}-client{client}")
    if part == "classifier":
        raise UserError(f"{source} has no classifier: name a run folder, or take --part encoder")
    if client is not None:
        raise UserError("--client is for run folders")
    content = checkpoint.read_file(source)
    if content.get("format") != checkpoint.FORMAT:
        raise UserError(f"{source} is neither a run's classifier nor an encoder that run_pretrain.py wrote")
    encoder = checkpoint.load_encoder(source)
    return Export(source, "encoder", source.stem, encoder, image_size or ENCODER_SIZE, content)


def _classifier(model: Model) -> Export:
    check_head(model)
    content = {n: value for n, value in checkpoint.read_file(model.path).items() if n != "personal"}
    described = {"norm": model.norm, "image_size": model.image_size, "provenance": provenance(model)}
    described["digest"] = digest(model.weights)
    payload = {**content, **described, "state_dict": dict(model.weights)}
    return Export(model.path, "classifier", model.path.stem, build_module(model), model.image_size, payload)


def _encoder_of(model: Model) -> Export:
    """The encoder of a classifier, as a checkpoint that ``--init`` reads."""
    encoder = build_module(model).get_submodule("encoder")
    state = encoder.state_dict()
    payload = {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        "arch": model.arch,
        "width": model.width,
        "norm": model.norm,
        "state_dict": state,
        "provenance": {**provenance(model), "digest": digest(state)},
    }
    return Export(model.path, "encoder", "encoder", encoder, model.image_size, payload)


def provenance(model: Model) -> dict[str, Any]:
    """How a run made its model, from the config.yaml beside it; without one only what the file says."""
    said: dict[str, Any] = {"method": "federated", "round": model.round}
    try:
        config = RunFolder(model.path.parent).config()
    except UserError:
        return said
    fields = ("dataset", "init", "strategy", "partition", "clients", "rounds", "image_size", "norm", "seed")
    return {**said, **{name: getattr(config, name) for name in fields}}
