"""Options of the model and of the weights a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import WIDTH, OptionSet, Width, goes_with
from fps_pretrain.models import hub
from fps_pretrain.models.architectures import check_architecture

MAX_SEED = 2**31 - 1
RANDOM = "random"
INIT_SOURCES = ("torchvision", "timm", "shuffled", RANDOM)
"""The prefixes of weights to start from that are not a checkpoint as it is."""


@dataclass(frozen=True)
class ModelOptions(OptionSet):
    """Model and start"""

    init: str = RANDOM
    """Weights the encoder starts from: 'random' (of --seed), random:SEED (of another seed, so that runs of several
    seeds start alike), a shipped encoder by name (fps_r20), the path of a checkpoint (run_pretrain.py's, or a state
    dict; .pt or .safetensors), hf:OWNER/NAME[@REVISION][:FILE] (a checkpoint on the Hugging Face hub),
    torchvision:NAME or timm:NAME (published weights of that model, which --arch must name, too), or shuffled:PATH (a
    checkpoint with the entries of each tensor in random order, the control for what it has learned)."""
    head: Literal["random", "centroid"] = "random"
    """Classifier a run starts from: fresh, or made of the class means of all clients' features (FedNCM)."""
    init_statistics: Annotated[
        Literal["checkpoint", "clients"] | None, goes_with("norm", "batch", default="checkpoint")
    ] = None
    """BatchNorm's statistics a run starts from: those that come with --init, or those of all clients' images, which
    need no labels."""
    arch: str = "resnet20"
    """Architecture of the encoder: a CIFAR ResNet (resnet20, 32, 44 or 56; He et al. 2016, section 4.2), or one of
    torchvision's, such as resnet18."""
    width: Annotated[Width, WIDTH] = 1
    """Multiplier of a CIFAR ResNet's channels."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation layers of the model; group replaces each BatchNorm by GroupNorm, which has no statistics."""
    bn_stats: Annotated[Literal["average", "local", "server"] | None, goes_with("norm", "batch")] = None
    """BatchNorm's statistics after a round: the clients' average (default), each client's own and their average for
    the server, or estimated by the server on its validation images (default with --dp, which covers no other)."""

    def check_model(self) -> None:
        """Refuse an unknown architecture, a malformed name, and published weights that cannot be those of the encoder.

        Raises:
            UserError: as said.
        """
        check_architecture(self.arch, self.width)
        if self.init.startswith(hub.PREFIX):
            hub.parse(self.init)
        source, _, name = self.init.partition(":")
        if source not in INIT_SOURCES or self.init == RANDOM:
            return
        if source == RANDOM:
            if not (name.isascii() and name.isdigit() and int(name) <= MAX_SEED):
                raise UserError(f"--init {self.init}: name a seed from 0 to {MAX_SEED}, such as random:0")
            return
        if not name:
            example, kind = ("checkpoints/fps_r20.pt", "checkpoint") if source == "shuffled" else ("resnet18", "model")
            raise UserError(f"--init {self.init} names no {kind}: for example {source}:{example}")
        # timm adds the recipe of the training after a dot, as in resnet18.a1_in1k.
        model = name.partition(".")[0]
        if source != "shuffled" and (model != self.arch or self.width != 1):
            raise UserError(f"--init {self.init} is not a {self.arch} of width {self.width}: pass --arch {model}")


def init_name(init: str) -> str:
    """A short name for ``--init``, for folders and legends: ``checkpoints/fps_r20.pt`` is fps_r20."""
    if init.startswith(hub.PREFIX):
        return hub.short_name(init)
    source, _, rest = init.partition(":")
    return f"{source}-{Path(rest).stem}" if rest and source in INIT_SOURCES else Path(init).stem
