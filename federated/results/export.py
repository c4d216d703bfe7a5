"""Write a model in a format that other programs read: python -m federated.export runs/NAME --format onnx.

onnx takes images as they are, uint8 (N, S, S, 3) RGB, and gives probabilities (classifier) or features (encoder);
safetensors holds the weights. Both carry class names and provenance in their metadata.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fps_pretrain.common.errors import UserError

PROG = "federated.export"


@dataclass(frozen=True)
class Command:
    """What the command line says."""

    source: tyro.conf.Positional[Path]
    """Run folder, classifier file, or encoder checkpoint."""
    format: Literal["onnx", "safetensors"] = "onnx"
    """Format of the file."""
    part: Literal["classifier", "encoder"] | None = None
    """What is written (default: the classifier, if there is one). An encoder as safetensors is what --init reads."""
    best: bool = False
    """Use the round with the highest validation accuracy, kept by --keep-best, and not the last."""
    client: int | None = None
    """Use the model of this client, which keeps a part of it (--personal head, --bn-stats local)."""
    image_size: int | None = None
    """Side of the images that an encoder checkpoint takes as onnx, in pixels (default: 32); a run knows its own."""
    output: Path | None = None
    """File to write (default: model, best or encoder with the format's suffix, in the folder of the source)."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UserError("--image-size must be at least 1")


def main(command: Command) -> int:
    """Write the file and say what it is; returns the exit code."""
    from federated.results import exported, onnx_file
    from fps_pretrain.models import safetensors_file

    if command.format == "onnx":
        onnx_file.check_installed()
    source = exported.find(
        command.source, command.part, best=command.best, client=command.client, image_size=command.image_size
    )
    folder = command.source if command.source.is_dir() else command.source.parent
    output = command.output or folder / f"{source.name}.{command.format}"
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: name a file")
    if command.format == "safetensors":
        safetensors_file.write(output, source.payload)
        said = f"{len(source.payload['state_dict'])} tensors"
    else:
        said = onnx_file.write(output, source)
    print(f"wrote {output}, the {source.part} of {source.path}: {said}", file=sys.stderr)
    return 0
