"""Write a model in a format that other programs read: python -m federated.export runs/NAME --format onnx.

onnx takes images as they are, uint8 (N, S, S, 3) RGB, and gives probabilities (classifier) or features (encoder);
safetensors and pt hold the weights. All carry class names and provenance in their metadata.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from fps_pretrain.common.errors import UserError, check_installed
from fps_pretrain.common.files import check_output

PROG = "federated.export"


Format = Literal["onnx", "safetensors", "pt"]


@dataclass(frozen=True)
class Command:
    """What the command line says."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, classifier file, or encoder checkpoint."""
    format: Format = "onnx"
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
    """File to write (default: model, best, encoder or model-clientN with the format's suffix, in the folder of the
    source)."""
    half: bool = False
    """Store an encoder's matrices in float16, as safetensors or pt: half the size; reading gives float32 again."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UserError("--image-size must be at least 1")
        if self.half and self.format == "onnx":
            raise UserError("--half is for --format safetensors and pt: an onnx file computes in float32")
        if self.output is not None:
            check_output("--output", self.output)
            suffix = self.output.suffix.removeprefix(".").lower()
            if suffix in get_args(Format) and suffix != self.format:
                raise UserError(f"--output {self.output} is named as --format {suffix}, not --format {self.format}")


def main(command: Command) -> int:
    """Write the file and say what it is; returns the exit code."""
    from federated.results import exported, onnx_file
    from federated.results.own_files import check_not_own
    from fps_pretrain.models import checkpoint, safetensors_file
    from fps_pretrain.models.tensor_file import write_atomically

    if command.format == "onnx":
        check_installed("--format onnx", "onnx and onnxscript", "onnx", "onnxscript", extra="onnx")
    source = exported.find(
        command.source, command.part, best=command.best, client=command.client, image_size=command.image_size
    )
    folder = command.source if command.source.is_dir() else command.source.parent
    output = command.output or folder / f"{source.name}.{command.format}"
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: name a file")
    if output.resolve() == source.path.resolve():
        raise UserError(f"{output} is what is exported: name another file with --output")
    check_not_own("--output", output)
    payload = source.payload
    if command.half:
        if source.part != "encoder":
            raise UserError("--half is for encoders: pass --part encoder")
        payload = checkpoint.in_half_precision(payload)
    if command.format != "onnx":
        (safetensors_file.write if command.format == "safetensors" else write_atomically)(output, payload)
        said = f"{len(payload['state_dict'])} tensors"
    else:
        said = onnx_file.write(output, source)
    print(f"wrote {output}, the {source.part} of {source.path}: {said}", file=sys.stderr)
    return 0
