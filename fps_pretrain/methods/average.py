"""The exponential moving average of a method's weights, which ``--ema`` writes in place of the last ones."""

from __future__ import annotations

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn

from fps_pretrain.methods.base import PairMethod


class EncoderAverage(WeightAveraging):
    """Lightning's average over the steps, which a state keeps and which other callbacks can look at on the way.

    Training itself is the same with and without it. Buffers, BatchNorm's statistics among them, are averaged, too; of
    integers (BatchNorm's number of batches) the last value is taken.

    Args:
        decay: share of the average that a step keeps, in [0, 1).
        device: where the average is kept; that which trains.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        average = get_ema_avg_fn(decay)

        def averaged(before: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
            return average(before, now, steps) if now.is_floating_point() else now

        super().__init__(device=device, avg_fn=averaged)

    @property
    def encoder(self) -> nn.Module:
        """The averaged encoder of a run that has begun."""
        assert self._average_model is not None
        method = self._average_model.module
        assert isinstance(method, PairMethod)
        return method.encoder


def encoder_of(trainer: L.Trainer, method: PairMethod) -> nn.Module:
    """The encoder that a run probes and writes: the average, if it keeps one, or else the method's own."""
    averages = (callback for callback in trainer.callbacks if isinstance(callback, EncoderAverage))  # type: ignore[attr-defined]
    return next((average.encoder for average in averages), method.encoder)
