"""Batches of pairs by step, and a loader that makes them before the trainer asks.

A step of a run is a batch: the pairs of the keys (seed, epoch, index) with consecutive indices. Devices divide a batch
in the order of their ranks, so that the pairs of a step do not depend on the number of devices.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fps_pretrain.pairs.device import DeviceFractalSource
from fps_pretrain.pairs.sources import PairSource
from fps_pretrain.pairs.stopwatch import Stopwatch


class PairBatches(Dataset[Tensor]):
    """The batches of a run, or a device's share of each, by step.

    Item ``step`` is ``(2, batch_size / world_size, 3, size, size)``, float32.

    Args:
        source: makes the pairs.
        batch_size: pairs in a batch over all devices.
        steps_per_epoch: batches in an epoch.
        rank: of this device.
        world_size: number of devices.
        threads: number of threads that may share a batch.
    """

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
        """Make the share of ``step``, which counts from the start of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.world_size
        return self.source.batch(epoch, position * self.batch_size + self.rank * share, share, self.threads)


class EpochSteps(Sampler[int]):
    """The steps of an epoch in order; a resumed run skips those before ``first_step``."""

    def __init__(self, steps_per_epoch: int, first_step: int = 0) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.first_step = first_step
        self.epoch = first_step // steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this at its start."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.steps_per_epoch
        return iter(range(max(start, self.first_step), start + self.steps_per_epoch))

    def __len__(self) -> int:
        return self.steps_per_epoch


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Ctrl-C and a batch system's SIGTERM reach every process: the trainer saves its state, and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """End this process on a SIGTERM that the trainer sent, and on no other."""
    trainer = multiprocessing.parent_process()  # which a server of forks may have started this for
    while trainer and signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer.pid:
        pass
    os._exit(0)


class PairLoader:
    """Batches that are made in advance, and a measurement of how long the trainer waits for them.

    Threads of this process make fractals, since compiled code releases the GIL; processes read the images of a folder;
    the training device makes its batches on demand.

    Args:
        batches: the batches by step.
        sampler: the steps.
        workers: number of threads or processes; 0 makes every batch on demand.

    Attributes:
        waiting: measures how long the trainer waits; if the training device makes the pairs, how long it is busy with
            them.
    """

    AHEAD = 3
    """Batches that a thread makes in advance."""

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
                worker_init_fn=_leave_signals_to_the_trainer,
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def _from_threads(self) -> Iterator[Tensor]:
        """Batches made by a background thread; each is shared by ``workers`` threads of its own pool."""
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
            # CUDA is asynchronous: the source times it with events.
            with nullcontext() if self.batches.source.made_by == "device" else self.waiting:
                batch = next(source, None)
            if batch is None:
                return
            yield batch
