"""What is measured of an encoder every so many pairs: probes, pair retrieval, and the training page."""

from __future__ import annotations

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
from fps_pretrain.methods.average import encoder_of
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.pairs.sources import PairSource
from fps_pretrain.probing.probe import features_of, probe
from fps_pretrain.probing.probe_data import ProbeData
from fps_pretrain.probing.training_page import Neighbours, write_page


class QualityProbe(Callback):
    """Every so many pairs: probes, pair retrieval (how often a view finds its partner), and the training page.

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
            measures = self.look(trainer, encoder_of(trainer, pl_module))
            logger.info(f"step {trainer.global_step}: " + describe(measures, self.data.name))


def describe(measures: dict[str, float], data_name: str) -> str:
    """Measures in words."""
    parts = [f"{data_name} kNN accuracy {measures['knn_accuracy']:.1%}"]
    if "linear_accuracy" in measures:
        parts.append(f"linear {measures['linear_accuracy']:.1%}")
    parts.append(f"pair retrieval {measures['pair_retrieval']:.1%}")
    return ", ".join(parts)
