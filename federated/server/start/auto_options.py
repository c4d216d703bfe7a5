"""How a run is computed fastest here: options that say ``auto`` are resolved once and stored with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from federated.client.workspace import precision_of
from federated.config.run import RunConfig
from federated.server.output.progress import log
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.hardware import check_compiler, cores, resolve_device, settled_precision

SPEED = 5e10
"""Floating point operations a second of one core that trains: ResNet-20 at 191 images a second, measured on an AMD EPYC
with AVX-512. Only whether a run is long depends on it."""

LONG = 20.0
"""Seconds of training on one core that worker processes must save: twice what it takes to start them."""


def compiled_if_possible(config: RunConfig) -> RunConfig:
    """The configuration without ``--compile`` where there is no compiler, which is said in a line."""
    if not config.compile:
        return config
    try:
        check_compiler(resolve_device(config.device).type == "cuda")
    except UserError as error:
        log.warning(f"{error}; going on without --compile")
        return replace(config, compile=False)
    return config


def with_precision(config: RunConfig, saved: RunConfig | None) -> RunConfig:
    """The configuration with ``--precision auto`` settled.

    Args:
        config: what was asked for.
        saved: the run that is to be resumed, if there is one; it goes on in the precision that it has begun in.
    """
    if config.precision != "auto":
        return config
    native = precision_of(config, resolve_device(config.device))
    precision = settled_precision(config.precision, native, saved.precision if saved else None)
    if precision == "bf16" and native != "bf16":
        log.info("the run began in bfloat16, which this machine does not multiply: it will be slow")
    return replace(config, precision=precision)


def with_workers(config: RunConfig, saved: RunConfig | None, model: nn.Module, sizes: Sequence[int]) -> RunConfig:
    """The configuration with ``--workers auto`` settled: a process for each core where that is expected to be faster.

    Clients then have one thread each, and in a short run, in this process, too: weights do not depend on the choice.

    Args:
        config: what was asked for.
        saved: the run that is to be resumed, if there is one.
        model: the classifier.
        sizes: how many training examples each client has; none where that is not known, with ``--partition nodes``.
    """
    if config.workers != "auto":
        return config
    began_without = saved is not None and saved.workers is None  # by a version without auto, or on another engine
    elsewhere = config.engine == "ray" or resolve_device(config.device).type == "cuda" or not sizes
    if elsewhere or began_without:
        return replace(config, workers=None)
    if config.participants == 1:
        return replace(config, workers=0)  # one client may have all cores
    workers = min(cores() // (config.threads or 1), config.participants)
    seconds = seconds_of_training(config, model, sizes)
    if workers > 1 and seconds * (1 - 1 / workers) > LONG:
        return replace(config, workers=workers)
    return replace(config, workers=0, threads=config.threads or 1)


def seconds_of_training(config: RunConfig, model: nn.Module, sizes: Sequence[int]) -> float:
    """A guess of how long all clients of a run train on one core, by counting operations."""
    if config.train == "head":  # each image goes through the encoder once, forward
        return sum(sizes) * operations(model, config.image_size or 32) / SPEED
    images = sum(sizes) / len(sizes) * config.participants * config.rounds * config.local_epochs
    # A backward pass takes twice as many operations as a forward pass.
    return 3 * images * operations(model, config.image_size or 32) / SPEED


@torch.no_grad()
def operations(model: nn.Module, side: int) -> float:
    """Floating point operations of a forward pass of one image ``(3, side, side)``."""
    training = model.training
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
    model.train(training)
    return float(counter.get_total_flops())
