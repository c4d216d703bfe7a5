"""What a machine can do with a network: its cores, the precision it computes fastest in, and whether it compiles."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor

from fps_pretrain.common.errors import UserError

Precision = Literal["32", "bf16"]


def resolve_device(name: str) -> torch.device:
    """The device of ``--device``; auto is a GPU if there is one.

    Raises:
        UserError: cuda was asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or auto")
    return torch.device(name)


def fix_algorithms() -> None:
    """Keep cuDNN from choosing another algorithm, with other roundings, the next time."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def native_precision(gpu: bool) -> Precision:
    """``bf16`` where the hardware multiplies bfloat16, else ``32``."""
    if gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "32"


def settled_precision(asked: str, native: Precision, begun_in: str | None) -> Precision:
    """What ``--precision`` comes to.

    Args:
        asked: ``auto``, ``32`` or ``bf16``.
        native: what this machine computes fastest.
        begun_in: what the run to resume has begun in, if it says: with ``auto`` it goes on so, on any machine.
    """
    for known in (asked, begun_in):
        if known in ("32", "bf16"):
            return cast(Precision, known)
    return native


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on the device, without waiting for what a GPU has been asked to do before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_a_process(processes: int) -> int:
    """How many cores each of a machine's processes may use; those of a Slurm task may be its own already."""
    mine, task = cores(), os.environ.get("SLURM_CPUS_PER_TASK", "")
    return mine if task.isdecimal() and mine <= int(task) else max(1, mine // processes)


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Give PyTorch ``count`` CPU threads while the block runs, None for as many as it has; then those of before."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


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


def gpu_of(number: int) -> dict[str, str]:
    """The environment in which the ``number``th of several processes sees one of this machine's GPUs, each in turn.

    Nothing changes where there are fewer than two to share.
    """
    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else list(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": names[number % count].strip()}
