"""What a machine can do: where a run trains, in which precision, and with how many threads it makes pairs."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models.hardware import Precision, cores_of_a_process, resolve_device, settled_precision


def uses_gpu(config: PretrainConfig) -> bool:
    """Whether a run trains on GPUs.

    Raises:
        UserError: GPUs are asked for that are not there.
    """
    gpu = resolve_device(config.device).type == "cuda"
    if gpu and config.devices > torch.cuda.device_count():
        raise UserError(f"--devices {config.devices}: torch finds {torch.cuda.device_count()} CUDA devices here")
    return gpu


def device_of_this_process(gpu: bool) -> torch.device:
    """Where this process trains: launchers number the processes of a machine, and Lightning gives each its GPU."""
    if not gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))))


def with_precision(config: PretrainConfig, native: Precision, stored: str | None = None) -> PretrainConfig:
    """The configuration with ``--precision auto`` resolved.

    Args:
        config: a configuration.
        native: what this machine computes fastest (``native_precision``).
        stored: the precision with which the run to resume has begun; it must go on with that.
    """
    return replace(config, precision=settled_precision(config.precision, native, stored))


def default_workers(gpu: bool, devices: int) -> int:
    """Threads that make pairs for one process: one beside a CPU that trains, up to 8 for a GPU."""
    return max(1, min(8, cores_of_a_process(devices) - 1)) if gpu else 1
