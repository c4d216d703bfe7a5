"""ONNX files: a model with its preprocessing, checked against PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from federated.results.exported import Export
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_bytes_atomically
from fps_pretrain.images.pixels import normalise

TOLERANCE = 1e-3
"""Largest difference to PyTorch's outputs, relative to the largest of them: both round in 32 bits."""


class WholeModel(nn.Module):
    """A module behind its preprocessing: uint8 ``(N, S, S, 3)`` to probabilities or features."""

    def __init__(self, export: Export) -> None:
        super().__init__()
        self.module = export.module
        self.softmax = export.part == "classifier"

    def forward(self, images: Tensor) -> Tensor:
        """Images, RGB in 0..255, to probabilities ``(N, classes)`` or features ``(N, feature_dim)``."""
        output: Tensor = self.module(normalise(images))
        return output.softmax(1) if self.softmax else output


def write(path: Path, export: Export) -> str:
    """Write the model for batches of any size; its metadata are the checkpoint's values.

    Returns:
        How it compares with PyTorch, or that onnxruntime, which would tell, is not installed.

    Raises:
        UserError: PyTorch cannot express the architecture in ONNX, or the file computes something else.
    """
    model = WholeModel(export).eval()
    size, output = export.image_size, "probabilities" if export.part == "classifier" else "features"
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _silent():
            program = torch.onnx.export(
                model, (images,), input_names=["images"], output_names=[output],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}, dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"PyTorch cannot export {export.payload['arch']} as ONNX: {error}") from error
    assert program is not None
    for name, value in export.payload.items():
        if name != "state_dict":
            program.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    content: bytes = program.model_proto.SerializeToString()
    said = compare(content, model, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, content)
    return said


def compare(content: bytes, model: nn.Module, size: int) -> str:
    """Run random images through an ONNX model and through the module it was made of.

    Raises:
        UserError: they differ by more than ``TOLERANCE``.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return "not checked, since onnxruntime is not installed (pip install -e '.[onnx]')"
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    (found,) = session.run(None, {"images": images})
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise UserError(f"the ONNX model differs from PyTorch's by {difference:.2g}: it is not written")
    return f"differs from PyTorch by at most {difference:.1g} in onnxruntime"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's progress and its warnings, which are about PyTorch's inside, from the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
