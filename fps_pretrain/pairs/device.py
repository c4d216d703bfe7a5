"""Pairs of fractals made by the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.batched.augment import augment
from fps_pretrain.fractals.batched.codes import CodeTable, code_table
from fps_pretrain.fractals.batched.compose import compose
from fps_pretrain.fractals.batched.rng import subkeys
from fps_pretrain.fractals.codes import SEEDED_CODES, Codes
from fps_pretrain.fractals.compose.slots import SLOT_AUGMENT
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.pairs.sources import FractalSource, MadeBy
from fps_pretrain.pairs.stopwatch import CudaStopwatch, Stopwatch


class DeviceFractalSource(FractalSource):
    """The pairs of ``FractalSource``, made by torch operations on a device.

    Starting the operations takes as long for a few pairs as for thousands. So the batches that will be asked for next
    are made together.

    Args:
        recipe: what pairs look like.
        seed: fixes codes and pairs.
        codes: codes of a file, or ``SEEDED_CODES``.
        device: where the pairs are made.
        block: pairs made at a time, at least a batch; None for as many as have 2^22 pixels in a view, on a CPU for a
            batch.

    Attributes:
        stride: distance between the first pairs of consecutive batches, which is the batch size over all devices; 0
            for the length of a batch.
        making: measures how long the device is busy with pairs.
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
        """Make a batch and those that will be asked for next."""
        if self._table is None:
            self._table = code_table(self.recipe, self.codes, self.seed, self.device)
        self._made.clear()  # frees their memory first
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
