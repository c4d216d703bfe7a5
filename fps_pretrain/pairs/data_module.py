"""The pairs of a training run: the source that its configuration names, and Lightning's data module."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as L
import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals.codes import load_codes
from fps_pretrain.models.hardware import cores_of_a_process
from fps_pretrain.pairs.device import DeviceFractalSource
from fps_pretrain.pairs.folder import FolderPairs
from fps_pretrain.pairs.loader import EpochSteps, PairBatches, PairLoader
from fps_pretrain.pairs.sources import FractalSource, PairSource
from fps_pretrain.pairs.synthetic import SyntheticPairs

CORES_THAT_FEED_A_GPU = 4
"""From this many cores for each GPU on, the CPU makes the pairs: 16 cores make five to twelve times as many as the H100
beside them does (docs/benchmarks.md), and the GPU has a network to train."""


def make_source(config: PretrainConfig, device: torch.device) -> PairSource:
    """Make the source that a configuration names.

    Args:
        config: the run.
        device: the device on which this process trains.

    Raises:
        UserError: the folder holds no images, or the file of codes cannot be read.
    """
    recipe = config.recipe()
    if config.folder is not None:
        return FolderPairs(config.folder, config.view_size, config.seed, recipe.augment)
    if not config.fractals:
        return SyntheticPairs(config.source, config.view_size, config.seed, recipe.augment)
    codes = load_codes(config.codes)
    scarce = cores_of_a_process(config.devices) < CORES_THAT_FEED_A_GPU
    if config.render == "device" or (config.render == "auto" and device.type == "cuda" and scarce):
        return DeviceFractalSource(recipe, config.seed, codes, device=device)
    return FractalSource(recipe, config.seed, codes)


class PairData(L.LightningDataModule):
    """The pairs of a run; they do not depend on the number of workers and devices."""

    def __init__(self, config: PretrainConfig, source: PairSource, workers: int) -> None:
        super().__init__()
        self.config = config
        self.source = source
        self.workers = workers

    def state_dict(self) -> dict[str, Any]:
        """A description of the source, which must be the same when the run is resumed."""
        return self.source.description()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resumed run gets the same pairs.

        Raises:
            UserError: the folder's images, by name and length, or the codes of the file have changed.
        """
        if state_dict != self.source.description():
            what = f"--codes {self.config.codes}" if self.config.codes else f"--source {self.config.source}"
            raise UserError(
                f"{what} holds something else than when this run began: restore it, or pass --no-resume to start over"
            )

    def train_dataloader(self) -> PairLoader:
        """The batches from the trainer's current step on."""
        config, trainer = self.config, self.trainer
        assert trainer is not None
        assert config.batch_size is not None
        batches = PairBatches(
            self.source,
            config.batch_size,
            config.steps_per_epoch,
            trainer.global_rank,
            trainer.world_size,
            max(1, self.workers),
        )
        steps = EpochSteps(config.steps_per_epoch, trainer.global_step)
        return PairLoader(batches, steps, self.workers)
