"""What a person sees of a long run: a progress bar, its speed, and how much of its time it waits for pairs."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm


class DataWait(Callback):
    """Logs the share of time that the trainer has waited for pairs since the last line of the log, as ``data_wait``.

    Where the training device makes the pairs itself, making them is what it waits for.

    Args:
        every: steps between two values.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._waited, self._time = 0.0, 0.0

    @staticmethod
    def _so_far(trainer: L.Trainer) -> float:
        assert trainer.train_dataloader is not None
        return float(trainer.train_dataloader.waiting.seconds())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from here: the first batches, and the compiler before them, belong to the start of the run."""
        self._waited, self._time = self._so_far(trainer), time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Log the share together with the loss."""
        if trainer.global_step % self.every:
            return
        waited, now = self._so_far(trainer), time.perf_counter()
        share = (waited - self._waited) / (now - self._time)
        pl_module.log("data_wait", share, rank_zero_only=trainer.world_size > 1)
        self._waited, self._time = waited, now


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


class PairProgress(Callback):
    """One bar over the whole run, in pairs: rate, time left, the last loss, spread and rank."""

    def __init__(self, steps: int, batch_size: int) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar where the run stands."""
        if not trainer.is_global_zero:
            return
        self.bar = tqdm(
            total=self.steps * self.batch_size,
            initial=trainer.global_step * self.batch_size,
            unit=" pairs",
            unit_scale=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            desc="pre-training",
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Advance by a batch."""
        if self.bar is None:
            return
        metrics = trainer.callback_metrics
        if "loss" in metrics:
            shown = {"loss": ("loss", ".3f"), "spread": ("embedding_spread", ".2f"), "rank": ("embedding_rank", ".1f")}
            text = ", ".join(f"{word} {metrics[name]:{form}}" for word, (name, form) in shown.items())
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(self.batch_size)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar: Lightning tears nothing down after an error."""
        self.teardown(trainer, pl_module, "fit")
