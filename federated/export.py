"""Write a model as ONNX or safetensors: ``python -m federated.export RUN --format onnx``."""

from __future__ import annotations

import sys

from federated.results import export
from fps_pretrain.common import cli


def main() -> int:
    """Carry out the process's command line; returns the exit code."""
    command = cli.parse(export.Command, export.PROG, sys.argv[1:], description=export.__doc__ or "")
    return cli.run(export.PROG, export.main, command)


if __name__ == "__main__":
    sys.exit(main())
