"""The lines with which a run begins."""

from __future__ import annotations

import torch

from fps_pretrain.common.log import logger
from fps_pretrain.common.wording import counted
from fps_pretrain.config.method import options_class, texts_of
from fps_pretrain.config.presets import for_short_runs
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals import compiled
from fps_pretrain.training.trainer import LIGHTNING_PRECISION

CPU_PAIRS_PER_SECOND = 300
"""Order of magnitude for two CPU cores at 32 px, to say what the paper's recipe would cost."""


def announce(config: PretrainConfig, gpu: bool, resuming: bool) -> None:
    """Say what will be trained, on what, and where its results go.

    Args:
        config: a resolved configuration.
        gpu: whether it trains on GPUs.
        resuming: whether it goes on from a saved state.
    """
    assert config.batch_size is not None
    assert config.epochs is not None
    pairs = config.total_steps * config.batch_size
    where = torch.cuda.get_device_name() if gpu else "CPU"
    if config.world_size > 1:
        where = f"{config.world_size} x {where}"
    source = "pairs" if config.fractals else f"pairs from {config.folder or config.source}"
    logger.info(
        f"{config.method}, {config.arch} x {config.width}, {config.view_size} px, preset {config.preset}: "
        f"{counted(config.epochs, 'epoch')}, {pairs:,} {source} in batches of {config.batch_size}, on {where} "
        f"({LIGHTNING_PRECISION[config.precision]})"
    )
    if config.method and for_short_runs(config.preset, config.method) and config.fractals:
        papers = texts_of(options_class(config.method)())
        changed = [text for text in config.method_options if text not in papers]
        changed += ["composed-views=1"] if config.composed_views == 1 else []
        logger.info(f"{config.method} for short runs: {' '.join(changed)}; --preset paper takes the paper's numbers")
    logger.info(_advice(config))
    if not compiled.is_cached():
        logger.info(compiled.COMPILING)
    logger.info(f"{'resuming' if resuming else 'run folder'}: {config.run_dir}; encoder checkpoint: {config.output}")


def _advice(config: PretrainConfig) -> str:
    """Which preset does otherwise."""
    if config.preset != "quick":
        return "--preset quick makes a small encoder in minutes instead"
    cost = ""
    if config.view_size <= 32:
        days = 100_000_000 / CPU_PAIRS_PER_SECOND / 86_400
        cost = f": about {days:.0f} days at {CPU_PAIRS_PER_SECOND} pairs/s on a CPU, hours on a GPU"
    return (
        "the quick preset shows the pipeline; it does not make strong weights. --preset short makes better ones in "
        "hours on a CPU; --preset paper runs the paper's "
        f"100 epochs{', 100,000,000 pairs' if config.folder is None else ''}{cost}"
    )
