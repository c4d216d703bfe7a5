"""What a machine can do with a network: in which precision it computes fastest, and whether it can compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Literal

import torch

from fps_pretrain.common.errors import UserError

Precision = Literal["32", "bf16"]


def native_precision(gpu: bool) -> Precision:
    """``bf16`` where the hardware multiplies bfloat16, else ``32``."""
    if gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "32"


def check_compiler(gpu: bool) -> None:
    """See that torch.compile has what it needs.

    Raises:
        UserError: it has not.
    """
    if gpu and importlib.util.find_spec("triton") is None:
        raise UserError("--compile on a GPU needs triton, which torch comes with on Linux")
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if not gpu and not any(map(shutil.which, compilers)):
        raise UserError(f"--compile needs a C++ compiler ({' or '.join(compilers)}), and there is none here")
