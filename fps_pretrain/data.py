"""Batches of pairs for the trainer: which batch is which pairs, and who renders them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fps_pretrain.config import PretrainConfig
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.views import fractal_batch


class FractalPairBatches(Dataset[Tensor]):
    """Item ``step`` is the whole batch ``(2, batch, 3, size, size)`` of that step of the run, float32, normalised."""

    def __init__(self, recipe: Recipe, seed: int, batch_size: int, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.seed = seed
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch

    def __getitem__(self, step: int) -> Tensor:
        """Render the batch of a step, counted from the start of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        out = np.empty((2, self.batch_size, 3, self.recipe.size, self.recipe.size), np.float32)
        fractal_batch(self.recipe, self.seed, epoch, position * self.batch_size, out)
        return torch.from_numpy(out)


class EpochSteps(Sampler[int]):
    """The steps of an epoch in order; a resumed run leaves out those before ``first_step``."""

    def __init__(self, steps_per_epoch: int, first_step: int = 0) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.first_step = first_step
        self.epoch = first_step // steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.steps_per_epoch
        return iter(range(max(start, self.first_step), start + self.steps_per_epoch))

    def __len__(self) -> int:
        return self.steps_per_epoch


class FractalPairs(L.LightningDataModule):
    """Fractal pairs, keyed by (seed, epoch, index): the same whatever the number of workers."""

    def __init__(self, config: PretrainConfig, workers: int) -> None:
        super().__init__()
        self.config = config
        self.workers = workers
        assert config.batch_size is not None
        self.batches = FractalPairBatches(config.recipe(), config.seed, config.batch_size, config.steps_per_epoch)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches from the step the trainer stands at."""
        assert self.trainer is not None
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=EpochSteps(self.config.steps_per_epoch, self.trainer.global_step),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
