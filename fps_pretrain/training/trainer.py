"""The method of a run, and the Lightning Trainer that trains it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as L
from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, method_class
from fps_pretrain.models.encoders import build_encoder, check_encoder
from fps_pretrain.models.hardware import fix_algorithms
from fps_pretrain.training.resume import StateIO
from fps_pretrain.training.sync_batchnorm import CpuLayerSync

LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}
"""Lightning's names of ``--precision``."""


def build_method(config: PretrainConfig) -> PairMethod:
    """The method with its encoder, both with the random weights of the seed.

    Raises:
        UserError: the encoder does not take images of this size, or the method not these options.
    """
    L.seed_everything(config.seed, workers=False, verbose=False)
    encoder = build_encoder(config.arch, config.width, config.seed)
    check_encoder(encoder, config.arch, config.view_size)
    assert config.method is not None
    return method_class(config.method)(config, encoder)


def compile_networks(method: PairMethod) -> None:
    """Have encoder and heads compiled at their first step; names and values of weights stay as they are."""
    for _, module in method.named_children():
        if any(True for _ in module.parameters()):
            module.compile(dynamic=False)


def make_trainer(
    config: PretrainConfig,
    method: PairMethod,
    gpu: bool,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    environment: ClusterEnvironment | None = None,
) -> L.Trainer:
    """The Trainer of a run; everything that is kept goes into the run folder.

    Args:
        config: a resolved configuration, its precision too.
        method: what will be trained.
        gpu: whether it trains on GPUs.
        callbacks: what happens beside training.
        loggers: where its values go.
        environment: which processes there are when several train together; None for one process.
    """
    assert config.run_dir is not None
    _silence_lightning()
    several = config.world_size > 1
    if gpu:
        fix_algorithms()
    plugins: list[Any] = [StateIO(config.run_dir)]
    if environment is not None:
        plugins.append(environment)
    sync = several and method.sync_batchnorm
    if sync and not gpu:
        plugins.append(CpuLayerSync())
    ddp = DDPStrategy(
        process_group_backend="nccl" if gpu else "gloo",
        broadcast_buffers=False,  # synchronised statistics agree anyway; those of MoCo are each device's own
        gradient_as_bucket_view=True,
    )
    return L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=ddp if several else "auto",
        sync_batchnorm=sync and gpu,
        use_distributed_sampler=False,
        plugins=plugins,
        precision=LIGHTNING_PRECISION[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        default_root_dir=config.run_dir,
        logger=list(loggers),
        callbacks=list(callbacks),
        log_every_n_steps=config.log_every,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def _silence_lightning() -> None:
    """Its hints (more workers, other loggers) do not fit a run that has chosen otherwise."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="torch.utils.data")
