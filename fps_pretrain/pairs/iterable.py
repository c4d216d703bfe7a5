"""Fractal pairs for a training loop of your own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import MAX_THREADS
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.pairs.loader import PairBatches
from fps_pretrain.pairs.sources import FractalSource


class FPSPairs(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of fractal pairs: two tensors of views, ``(batch_size, 3, size, size)``, float32, on the CPU.

    The views are augmented and normalised with ImageNet's mean and deviation. The pairs are those on which
    ``run_pretrain.py`` trains with the same seed, batch size, pairs in an epoch and recipe, in the same order, for any
    number of workers. The defaults are those of its paper preset, but for ``renders``:

        loader = DataLoader(FPSPairs(batch_size=256), batch_size=None, num_workers=4)

    In a process group of torch.distributed every process gets its share of each batch.

    Args:
        batch_size: pairs in a batch, over all processes.
        size: side of a view in pixels, 16 to 512.
        seed: determines codes and pairs.
        pairs: number of pairs, rounded down to whole batches; None for no end.
        first: number of pairs to skip, rounded down to whole batches, to continue an earlier loop.
        pairs_per_epoch: length of an epoch; every epoch has its own order of the classes.
        threads: number of threads in each worker that share a batch.
        recipe: options of the recipe by name, as ``fractals.recipe.make_recipe`` takes them.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        batch_size: int = 256,
        size: int = 32,
        seed: int = 0,
        pairs: int | None = None,
        first: int = 0,
        pairs_per_epoch: int = 1_000_000,
        threads: int = 1,
        **recipe: Any,
    ) -> None:
        if not 1 <= batch_size <= pairs_per_epoch:
            raise UserError(f"batch_size must be 1 to pairs_per_epoch ({pairs_per_epoch}), got {batch_size}")
        if first < 0 or (pairs is not None and pairs < batch_size):
            raise UserError(f"first must be at least 0 and pairs at least a batch, got {first} and {pairs}")
        if not 1 <= threads <= MAX_THREADS:
            raise UserError(f"threads must be 1 to {MAX_THREADS}, got {threads}")
        rank, world_size = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if batch_size % world_size:
            raise UserError(f"batch_size {batch_size} must be a multiple of the {world_size} processes")
        source = FractalSource(make_recipe(size, **recipe), seed)
        self.batches = PairBatches(source, batch_size, pairs_per_epoch // batch_size, rank, world_size, threads)
        self.start = first // batch_size
        self.stop = None if pairs is None else self.start + pairs // batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches; workers of a DataLoader take turns."""
        worker = get_worker_info()
        step, stride = (self.start + worker.id, worker.num_workers) if worker else (self.start, 1)
        while self.stop is None or step < self.stop:
            first, second = self.batches[step]
            yield first, second
            step += stride
