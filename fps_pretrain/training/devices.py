"""What a machine can do: where a run trains, in which precision, and with how many threads it makes pairs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from typing import Literal

import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig

Precision = Literal["32", "bf16"]


def uses_gpu(config: PretrainConfig) -> bool:
    """Whether a run trains on GPUs.

    Raises:
        UserError: GPUs are asked for that are not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    gpu = config.device != "cpu" and torch.cuda.is_available()
    if gpu and config.devices > torch.cuda.device_count():
        raise UserError(f"--devices {config.devices}: torch finds {torch.cuda.device_count()} CUDA devices here")
    return gpu


def device_of_this_process(gpu: bool) -> torch.device:
    """Where this process trains: launchers number the processes of a machine, and Lightning gives each its GPU."""
    if not gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))))


def native_precision(gpu: bool) -> Precision:
    """``bf16`` where the hardware multiplies bfloat16, else ``32``."""
    if gpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "32"


def with_precision(config: PretrainConfig, native: Precision, stored: str | None = None) -> PretrainConfig:
    """The configuration with ``--precision auto`` resolved.

    Args:
        config: a configuration.
        native: what this machine computes fastest (``native_precision``).
        stored: the precision with which the run to resume has begun; it must go on with that.
    """
    if config.precision != "auto":
        return config
    precision: Precision = "32" if stored == "32" else "bf16" if stored == "bf16" else native
    return replace(config, precision=precision)


def default_workers(gpu: bool, devices: int) -> int:
    """Threads that make pairs for one process: one beside a CPU that trains, up to 8 for a GPU."""
    return max(1, min(8, (os.cpu_count() or 2) // devices - 1)) if gpu else 1


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
