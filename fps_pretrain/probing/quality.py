"""What is measured of an encoder while it trains, and an alarm when its embeddings collapse."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from fps_pretrain.common.log import logger
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.pairs.sources import PairSource
from fps_pretrain.probing.probe import features_of, probe
from fps_pretrain.probing.probe_data import ProbeData
from fps_pretrain.probing.training_page import Neighbours, write_page

COLLAPSED = 0.1
"""Embedding spread under which nearly all views are at one point; 1 is an even spread over the sphere."""


class CollapseAlarm(Callback):
    """Says in words when the embedding spread stays under ``COLLAPSED``, and when it is back.

    SimSiam has no negatives that keep its embeddings apart; their standard deviation tells whether they are (Chen and
    He, CVPR 2021, section 4.1 and figure 2). A method whose head has no BatchNorm, such as MoCo, begins with a low
    spread: there the alarm waits until it has been even once, or a fifth of the run is over.

    Args:
        every: steps between two values.
        total_steps: steps of the run.
        patience: how many low values in a row raise the alarm.
    """

    def __init__(self, every: int, total_steps: int, patience: int = 3) -> None:
        self.every = every
        self.patience = patience
        self._from = total_steps // 5
        self._low = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Look at the last value."""
        spread = trainer.callback_metrics.get("embedding_spread")
        if spread is None or trainer.global_step % self.every or not trainer.is_global_zero:
            return
        if spread >= COLLAPSED:
            if self._low >= self.patience:
                logger.info(f"the embeddings have spread again at step {trainer.global_step}: {spread:.2f}")
            self._low, self._from = 0, 0
            return
        self._low += trainer.global_step >= self._from
        if self._low == self.patience:
            logger.warning(
                f"warning: the embeddings have collapsed at step {trainer.global_step}: their spread is {spread:.3f}, "
                f"where 1 is even and under {COLLAPSED} all views look alike to the encoder. If it stays so, stop "
                "(Ctrl-C) and start over with a lower --lr or a larger --batch-size"
            )


class PairRate(Callback):
    """Logs pairs per second of wall clock since the last line of the log."""

    def __init__(self, batch_size: int, every: int) -> None:
        self.batch_size = batch_size
        self.every = every
        self._step, self._time = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._step, self._time = trainer.global_step, time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Log the rate together with the loss."""
        if trainer.global_step % self.every:
            return
        now = time.perf_counter()
        rate = (trainer.global_step - self._step) * self.batch_size / (now - self._time)
        pl_module.log("pairs_per_second", rate, rank_zero_only=trainer.world_size > 1)
        self._step, self._time = trainer.global_step, now


class QualityProbe(Callback):
    """Every so many pairs: probes, how often a view finds its pair's other view, and the training page.

    Args:
        config: a resolved configuration.
        source: where pairs come from; its first pairs are those on the page.
        data: labelled images.
        encoder: the encoder with its random weights, which the others are compared with.
    """

    def __init__(self, config: PretrainConfig, source: PairSource, data: ProbeData, encoder: nn.Module) -> None:
        assert config.run_dir is not None
        assert config.batch_size is not None
        self.config = config
        self.source = source
        self.data = data
        self.folder: Path = config.run_dir
        count = 256 if source.size <= 64 else 96
        self.views = source.batch(0, 0, count).cpu().numpy()
        every = config.steps_per_epoch * config.batch_size if config.probe_every is None else config.probe_every
        self.every_steps = max(1, round(every / config.batch_size)) if every else 0
        self.record = CSVLogger(config.run_dir, name="probes")
        self._latest = (0, self.measure(encoder))
        self.baseline = self._latest[1][0]

    def measure(self, encoder: nn.Module) -> tuple[dict[str, float], Neighbours]:
        """Measures by name, in [0, 1], and the views nearest to those on the page."""
        features = features_of(encoder, torch.from_numpy(self.views.reshape(-1, *self.views.shape[2:])))
        first, second = features.chunk(2)
        neighbours = Neighbours(self.views, self._nearest(first, second))
        measures = probe(encoder, self.data, self.config.linear_probe)
        measures["pair_retrieval"] = neighbours.retrieval
        return measures, neighbours

    @staticmethod
    def _nearest(first: Tensor, second: Tensor) -> np.ndarray:
        """For each first view the second views in order of similarity, the nearest first."""
        return (first @ second.T).argsort(dim=1, descending=True).numpy()

    def look(self, trainer: L.Trainer, encoder: nn.Module) -> dict[str, float]:
        """Measure, log, and rewrite the page; the measures."""
        step = trainer.global_step
        measures, neighbours = self.measured_at(step, encoder)
        assert self.config.batch_size is not None
        values = {**measures, "pairs_seen": float(step * self.config.batch_size)}
        for record in (self.record, *trainer.loggers[1:]):  # the first logger is the CSV of the losses
            record.log_metrics(values, step)
            record.save()
        trainer.loggers[0].save()
        write_page(self.folder, self.config, neighbours, self.data.name, self.baseline)
        return measures

    def measured_at(self, step: int, encoder: nn.Module) -> tuple[dict[str, float], Neighbours]:
        """What ``measure`` says of the encoder after ``step``; a step is measured once."""
        if self._latest[0] != step:
            self._latest = (step, self.measure(encoder))
        return self._latest[1]

    def in_short(self, measures: dict[str, float]) -> dict[str, float | int]:
        """What a checkpoint says of its accuracies beside those of random weights, and on how many images."""
        values = {
            f"{self.data.name}_{name}{of}": round(taken[f"{name}_accuracy"], 4)
            for name in ("knn", "linear")
            for of, taken in (("", measures), ("_random", self.baseline))
            if f"{name}_accuracy" in taken
        }
        return values | {"bank": len(self.data.bank_labels), "queries": len(self.data.labels)}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Look if it is time to; the end of the run is looked at when it is over."""
        due = self.every_steps and trainer.global_step % self.every_steps == 0
        if due and trainer.is_global_zero and trainer.global_step < self.config.total_steps:
            assert isinstance(pl_module, PairMethod)
            measures = self.look(trainer, pl_module.encoder)
            logger.info(f"step {trainer.global_step}: " + describe(measures, self.data.name))


def describe(measures: dict[str, float], data_name: str) -> str:
    """Measures in words."""
    parts = [f"{data_name} kNN accuracy {measures['knn_accuracy']:.1%}"]
    if "linear_accuracy" in measures:
        parts.append(f"linear {measures['linear_accuracy']:.1%}")
    parts.append(f"pairs found {measures['pair_retrieval']:.1%}")
    return ", ".join(parts)
