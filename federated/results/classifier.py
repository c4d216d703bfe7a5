"""A finished run's classifier, ready to use: images in, class names and probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from federated.client.batch_norm import model_structure
from federated.client.parts import with_own_part
from federated.client.state import ClientStates
from federated.server.output import file_names, model_file
from federated.server.output.model_file import Model
from federated.server.output.run_folder import RunFolder
from federated.server.start.resume_checks import check_counts
from fps_pretrain.common.errors import UserError
from fps_pretrain.images.decode import pack, read_image
from fps_pretrain.images.pixels import normalise
from fps_pretrain.images.table import Images
from fps_pretrain.models.checksum import why_misfit
from fps_pretrain.models.hardware import resolve_device

AnyImage = Images | str | Path | Image.Image
"""uint8 ``(H, W, 3)`` RGB or ``(H, W)`` grey, the path of an image file, or one of Pillow's images."""


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of N images.

    Attributes:
        names: the most probable class of each ``(N,)``.
        probabilities: of each class, in the classifier's order, float32 ``(N, classes)``; rows add up to 1.
    """

    names: list[str]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.names)


class Classifier:
    """A classifier with its preprocessing. ``load_classifier`` makes one.

    Args:
        model: what the file of the run holds.
        device: where it computes.

    Attributes:
        classes: the names of the classes, in the order of the probabilities.
        image_size: side of the squares that images are brought to, in pixels.
        module: encoder and head, in evaluation mode: normalised images ``(N, 3, S, S)`` to logits.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.classes = model.classes
        self.image_size = model.image_size
        self.device = device
        self.module = build_module(model).to(device).to(memory_format=torch.channels_last)

    def __call__(self, images: AnyImage | Sequence[AnyImage] | Images, batch_size: int = 256) -> Predictions:
        """Classify images.

        Args:
            images: one image, several of any sizes and kinds, or an array ``(N, H, W, 3)``.
            batch_size: how many are read and classified at once.

        Raises:
            UserError: a file cannot be read, or something is no image.
        """
        given: Iterable[AnyImage] = [images] if _is_one(images) else images  # type: ignore[assignment,list-item]
        items = list(given)
        parts = [
            self.probabilities(self.prepare(items[start : start + batch_size]))
            for start in range(0, len(items), batch_size)
        ]
        probabilities = np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)
        return Predictions([self.classes[best] for best in probabilities.argmax(1)], probabilities)

    def prepare(self, images: Iterable[AnyImage]) -> Images:
        """Images as the run saw its own, uint8 ``(N, S, S, 3)``: the short side resized, the middle cropped.

        Raises:
            UserError: a file cannot be read, or something is no image.
        """
        return pack(map(as_array, images), self.image_size)

    @torch.inference_mode()
    def probabilities(self, prepared: Images) -> NDArray[np.float32]:
        """Probabilities ``(N, classes)`` of what ``prepare`` returned, in one batch."""
        logits = self.module(normalise(torch.from_numpy(prepared).to(self.device)))
        return logits.softmax(1).cpu().numpy()


def load_classifier(
    run: Path | str,
    *,
    best: bool = False,
    client: int | None = None,
    classes: Sequence[str] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Classifier:
    """The classifier of a finished run.

    Args:
        run: the run folder, or a classifier file (model.pt, best.pt, or what ``federated.export`` wrote as
            safetensors).
        best: take the round with the highest validation accuracy, which ``--keep-best`` keeps, not the last.
        client: take the model of this client: with its head (``--personal head``) and its statistics (``--bn-stats
            local``) in the place of the run's.
        classes: names for the classes, in the order of their labels, in place of the run's.
        device: auto takes a GPU if there is one.

    Raises:
        UserError: the run has not finished, the file is damaged or missing, ``classes`` are too few or too many, or the
            model is nobody's: only clients have heads.
    """
    model = find_model(Path(run), best=best, client=client)
    check_head(model)
    if classes is not None:
        model = with_classes(model, classes)
    return Classifier(model, resolve_device(device))


def check_exists(path: Path) -> None:
    """Refuse a name that nothing has.

    Raises:
        UserError: as said.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a run folder, or the file of a model")


def find_model(run: Path, *, best: bool, client: int | None = None) -> Model:
    """The model of a run folder, or of a file; see ``load_classifier``."""
    check_exists(run)
    if not run.is_dir():
        if client is not None:
            raise UserError(f"{run} is a file: the models of clients are in a run folder")
        if best:
            raise UserError(f"{run} is a file: name the run folder for its best round, or the file {file_names.BEST}")
        return model_file.read(run)
    if not (run / file_names.CONFIG).is_file():
        raise UserError(f"{run} is not a run: it has no config.yaml")
    if not (run / file_names.MODEL).is_file():
        raise UserError(f"{run} has not finished: the command that began it goes on and writes {file_names.MODEL}")
    if best and client is not None:
        raise UserError("--best does not go with --client: of clients only what they had at the end is kept")
    if best and not (run / file_names.BEST).is_file():
        raise UserError(f"{run} has no {file_names.BEST}: it ran without --keep-best")
    model = model_file.read(run / (file_names.BEST if best else file_names.MODEL))
    return model if client is None else _of_client(run, model, client)


def _of_client(run: Path, model: Model, client: int) -> Model:
    """The model with what a client keeps to itself."""
    folder = RunFolder(run)
    own: dict[str, Tensor] = {}
    if (folder.client_states / str(client)).is_dir():
        state = folder.load_state()
        check_counts(folder.state_file, state, folder.config())
        states = ClientStates(folder.client_states, state.run)
        own = with_own_part({}, states.load(client, int(state.client_rounds[client])))
    if not own:
        raise UserError(f"{run} has nothing of client {client}'s own: it took no part, or its node keeps it")
    if misfit := why_misfit(own, {name: tensor for name, tensor in model.weights.items() if name in own}):
        raise UserError(f"{folder.client_states / str(client)} is damaged: {misfit}")
    return replace(model, weights={**model.weights, **own}, personal=False)


def check_head(model: Model) -> None:
    """Refuse a model whose head nobody trained.

    Raises:
        UserError: the clients of its run kept their heads.
    """
    if model.personal:
        raise UserError(f"{model.path} has no trained head, since clients kept theirs: name one, such as --client 0")


def with_classes(model: Model, classes: Sequence[str]) -> Model:
    """The model with other names for its classes.

    Raises:
        UserError: they are not as many, or a name stands twice.
    """
    if len(classes) != len(model.classes):
        raise UserError(f"{len(classes)} class names do not fit {model.path}, which has {len(model.classes)} classes")
    if len(set(classes)) < len(classes):
        raise UserError("a class name stands twice among those given")
    return replace(model, classes=tuple(classes))


def build_module(model: Model) -> nn.Module:
    """Encoder and head with the model's weights, in evaluation mode.

    Raises:
        UserError: the weights are not those of the architecture that the file names.
    """
    module = model_structure(model.arch, model.width, model.norm, len(model.classes))
    if misfit := why_misfit(model.weights, module.state_dict()):
        raise UserError(f"{model.path} is damaged: {misfit}, for {model.arch}")
    module.load_state_dict(dict(model.weights))
    return module.eval()


def _is_one(images: Any) -> bool:
    return isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)


def as_array(image: AnyImage) -> Images:
    """One image as uint8 ``(H, W, 3)``, RGB; grey ones get three equal channels, transparency is dropped.

    Raises:
        UserError: the file cannot be read, or it is no image of 8 bits a channel.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise UserError(f"an image of Pillow's mode {image.mode} has more than 8 bits a channel: convert it first")
        # As a camera's file is read by its path: turned the way that it says.
        image = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise UserError(f"an image must be of type uint8 with values from 0 to 255, not {array.dtype}")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"an image must have the shape (H, W, 3) or (H, W), not {array.shape}")
    return array
