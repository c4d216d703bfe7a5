"""Batches of pairs for the trainer: which batch is which pairs, and who makes them.

A step of a run is a batch; its pairs are those of the keys (seed, epoch, index) with consecutive indices. Devices share
a batch in order of their rank, so that the pairs of a step do not depend on how many devices there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fps_pretrain.config import PretrainConfig
from fps_pretrain.errors import UserError
from fps_pretrain.folder import FolderPairs
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.views import fractal_batch


class PairSource(Protocol):
    """Where pairs come from."""

    size: int
    """Side of a view in pixels."""

    def fill(self, epoch: int, first: int, out: np.ndarray) -> None:
        """Make consecutive pairs of an epoch.

        Args:
            epoch: the epoch, from 0.
            first: index of the first pair in the epoch.
            out: output ``(2, batch, 3, size, size)``, float32, normalised: first views, then second views.
        """

    def description(self) -> dict[str, Any]:
        """What a checkpoint records of the source, in plain values."""


class FractalSource:
    """Pairs composed of fractals, keyed by (seed, epoch, index)."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe = recipe
        self.seed = seed
        self.size = recipe.size

    def fill(self, epoch: int, first: int, out: np.ndarray) -> None:
        """See ``PairSource``."""
        fractal_batch(self.recipe, self.seed, epoch, first, out)

    def description(self) -> dict[str, Any]:
        """The recipe's numbers."""
        return {**self.recipe._asdict(), "source": "fractals"}


def make_source(config: PretrainConfig) -> PairSource:
    """The source that a configuration names.

    Raises:
        UserError: the folder holds no images.
    """
    if config.folder is None:
        return FractalSource(config.recipe(), config.seed)
    return FolderPairs(config.folder, config.view_size, config.seed)


class PairBatches(Dataset[Tensor]):
    """Item ``step`` is a device's share ``(2, batch / devices, 3, size, size)`` of that step's batch, float32."""

    def __init__(
        self, source: PairSource, batch_size: int, steps_per_epoch: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, step: int) -> Tensor:
        """Make the share of a step, counted from the start of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.world_size
        out = np.empty((2, share, 3, self.source.size, self.source.size), np.float32)
        self.source.fill(epoch, position * self.batch_size + self.rank * share, out)
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


class PairData(L.LightningDataModule):
    """Pairs of a source, keyed by (seed, epoch, index): the same whatever the number of workers and devices."""

    def __init__(self, config: PretrainConfig, source: PairSource, workers: int) -> None:
        super().__init__()
        self.config = config
        self.source = source
        self.workers = workers

    def state_dict(self) -> dict[str, Any]:
        """What the pairs are made of, to be the same when the run is resumed."""
        return self.source.description()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See that a resumed run gets the pairs it began with.

        Raises:
            UserError: the images of the folder are others.
        """
        if state_dict != self.source.description():
            raise UserError(
                f"--source {self.config.source} holds other images than when this run began: "
                "restore them, or pass --no-resume to start over"
            )

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches from the step the trainer stands at."""
        config, trainer = self.config, self.trainer
        assert trainer is not None
        assert config.batch_size is not None
        return DataLoader(
            PairBatches(
                self.source, config.batch_size, config.steps_per_epoch, trainer.global_rank, trainer.world_size
            ),
            batch_size=None,
            sampler=EpochSteps(config.steps_per_epoch, trainer.global_step),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
