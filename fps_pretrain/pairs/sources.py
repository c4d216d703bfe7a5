"""Batches of pairs for the trainer: which batch is which pairs, and who makes them.

A step of a run is a batch; its pairs are those of the keys (seed, epoch, index) with consecutive indices. Devices share
a batch in order of their rank, so that the pairs of a step do not depend on how many devices there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals.batch import fractal_batch, load_codes
from fps_pretrain.fractals.batched.tensors import CodeTable, code_table, compose, subkeys
from fps_pretrain.fractals.batched.views import augment
from fps_pretrain.fractals.code_file import codes_digest
from fps_pretrain.fractals.compose import SEEDED_CODES, SLOT_AUGMENT, Codes
from fps_pretrain.fractals.recipe import Recipe, describe
from fps_pretrain.pairs.folder import FolderPairs
from fps_pretrain.pairs.stopwatch import CudaStopwatch, Stopwatch

MadeBy = Literal["threads", "processes", "device"]


class PairSource(Protocol):
    """Where pairs come from."""

    size: int
    """Side of a view in pixels."""

    made_by: MadeBy
    """What makes several batches, or parts of one, at the same time."""

    def batch(self, epoch: int, first: int, count: int, threads: int = 1) -> Tensor:
        """Make consecutive pairs of an epoch.

        Args:
            epoch: the epoch, from 0.
            first: index of the first pair in the epoch.
            count: how many.
            threads: how many threads may share the work; the pairs are the same with any number.

        Returns:
            ``(2, count, 3, size, size)``, float32, normalised: first views, then second views.
        """

    def description(self) -> dict[str, Any]:
        """What a checkpoint records of the source, in plain values."""


class FractalSource:
    """Pairs composed of fractals, keyed by (seed, epoch, index), made by compiled threads.

    Args:
        recipe: what pairs look like.
        seed: fixes codes and pairs.
        codes: codes to take instead of the seed's.
    """

    made_by: MadeBy = "threads"

    def __init__(self, recipe: Recipe, seed: int, codes: Codes = SEEDED_CODES) -> None:
        self.recipe = recipe
        self.seed = seed
        self.codes = codes
        self.size = recipe.size

    def batch(self, epoch: int, first: int, count: int, threads: int = 1) -> Tensor:
        """See ``PairSource``."""
        out = np.empty((2, count, 3, self.size, self.size), np.float32)
        fractal_batch(self.recipe, self.seed, epoch, first, out, codes=self.codes, threads=threads)
        return torch.from_numpy(out)

    def description(self) -> dict[str, Any]:
        """The recipe's numbers, and a digest of the codes where they come from a file."""
        codes = {"codes": codes_digest(*self.codes)} if self.codes.sizes.size else {}
        return {**describe(self.recipe), **codes, "source": "fractals"}


class DeviceFractalSource(FractalSource):
    """The same pairs, made by torch operations on the device that trains.

    A device has the same overhead for a few pairs as for thousands: the batches asked for next are made together.

    Args:
        recipe: what pairs look like.
        seed: fixes codes and pairs.
        codes: codes to take instead of the seed's.
        device: where to make them.
        block: pairs made at a time; None for as many as make four million pixels a view, on a CPU for a batch.

    Attributes:
        stride: how far the first pairs of two batches are apart, the batch size of all devices together; 0 for as far
            as a batch is long.
        making: how long the device has been busy with pairs.
    """

    made_by: MadeBy = "device"

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        codes: Codes = SEEDED_CODES,
        *,
        device: torch.device,
        block: int | None = None,
    ) -> None:
        super().__init__(recipe, seed, codes)
        self.device = device
        self.block = block or (1 if device.type == "cpu" else 2**22 // recipe.size**2)
        self.stride = 0
        self.making = CudaStopwatch() if device.type == "cuda" else Stopwatch()
        self._table: CodeTable | None = None
        self._made: dict[tuple[int, int, int], Tensor] = {}

    def _make(self, epoch: int, first: int, count: int) -> None:
        """Make a batch and those that will be asked for after it."""
        if self._table is None:
            self._table = code_table(self.recipe, self.codes, self.seed, self.device)
        self._made.clear()  # makes room
        with self.making:
            firsts = first + (self.stride or count) * torch.arange(max(1, self.block // count))
            index = (firsts[:, None] + torch.arange(count)).flatten()
            composed, keys = compose(self.recipe, self._table, self.seed, epoch, index)
            keys = subkeys(keys.flatten(), SLOT_AUGMENT)
            views = augment(composed.flatten(0, 1), self.recipe.augment, keys, self.size)
        for start, batch in zip(firsts.tolist(), views.unflatten(0, (2, -1)).split(count, dim=1), strict=True):
            self._made[epoch, start, count] = batch

    def batch(self, epoch: int, first: int, count: int, threads: int = 1) -> Tensor:
        """See ``PairSource``; the tensor is on the device."""
        if (epoch, first, count) not in self._made:
            self._make(epoch, first, count)
        return self._made[epoch, first, count]


def make_source(config: PretrainConfig, device: torch.device) -> PairSource:
    """The source that a configuration names.

    Args:
        config: the run.
        device: where this process trains.

    Raises:
        UserError: the folder holds no images, or the file of codes no codes.
    """
    if config.folder is not None:
        return FolderPairs(config.folder, config.view_size, config.seed, config.recipe().augment)
    recipe, codes = config.recipe(), load_codes(config.codes)
    if config.render == "device" or (config.render == "auto" and device.type == "cuda"):
        return DeviceFractalSource(recipe, config.seed, codes, device=device)
    return FractalSource(recipe, config.seed, codes)


class PairBatches(Dataset[Tensor]):
    """Item ``step`` is a device's share ``(2, batch / devices, 3, size, size)`` of that step's batch, float32."""

    def __init__(
        self,
        source: PairSource,
        batch_size: int,
        steps_per_epoch: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.rank = rank
        self.world_size = world_size
        self.threads = threads
        if isinstance(source, DeviceFractalSource):
            source.stride = batch_size

    def __getitem__(self, step: int) -> Tensor:
        """Make the share of a step, counted from the start of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.world_size
        return self.source.batch(epoch, position * self.batch_size + self.rank * share, share, self.threads)


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


class PairLoader:
    """Batches made ahead of the trainer, and a clock of how long it waits for them.

    Fractals are made by threads of this process, which hold no lock of Python's; images of a folder by processes; what
    the training device makes itself it makes when asked.

    Args:
        batches: the batches by step.
        sampler: which steps.
        workers: threads or processes; 0 makes a batch when asked for it.

    Attributes:
        waiting: the clock; for pairs that the training device makes, how long it is busy with them.
    """

    AHEAD = 3

    def __init__(self, batches: PairBatches, sampler: EpochSteps, workers: int) -> None:
        self.batches = batches
        self.sampler = sampler
        self.workers = workers
        source = batches.source
        self.waiting = source.making if isinstance(source, DeviceFractalSource) else Stopwatch()
        self._processes: DataLoader[Tensor] | None = None
        if workers and source.made_by == "processes":
            self._processes = DataLoader(
                batches,
                batch_size=None,
                sampler=sampler,
                num_workers=workers,
                persistent_workers=True,
                prefetch_factor=4,
                pin_memory=torch.cuda.is_available(),
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def _from_threads(self) -> Iterator[Tensor]:
        """A thread makes the batches, with ``workers`` threads for each, while the trainer is busy with others."""
        steps = iter(self.sampler)
        pool = ThreadPoolExecutor(1, "pairs")
        try:
            made = deque(pool.submit(self.batches.__getitem__, step) for step in islice(steps, self.AHEAD))
            while made:
                batch = made.popleft().result()
                made.extend(pool.submit(self.batches.__getitem__, step) for step in islice(steps, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Tensor]:
        source: Iterator[Tensor]
        if self._processes is not None:
            source = iter(self._processes)
        elif self.workers and self.batches.source.made_by == "threads":
            source = self._from_threads()
        else:
            source = (self.batches[step] for step in self.sampler)
        while True:
            # A device keeps its own time: it answers at once, and is busy long after.
            with nullcontext() if self.batches.source.made_by == "device" else self.waiting:
                batch = next(source, None)
            if batch is None:
                return
            yield batch


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

    def train_dataloader(self) -> PairLoader:
        """Batches from the step the trainer stands at."""
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
