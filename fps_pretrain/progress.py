"""What a person sees of a long run, and how they stop it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm


class PairProgress(Callback):
    """One bar over the whole run, in pairs: rate and time left, with the last loss and embedding spread."""

    def __init__(self, steps: int, batch_size: int) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar where the run stands."""
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
        assert self.bar is not None
        metrics = trainer.callback_metrics
        if "loss" in metrics:
            self.bar.set_postfix_str(
                f"loss {metrics['loss']:.3f}, spread {metrics['embedding_spread']:.2f}", refresh=False
            )
        self.bar.update(self.batch_size)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar: Lightning tears nothing down after an error."""
        self.teardown(trainer, pl_module, "fit")


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM, finish the step, save the state and stop; a second signal stops at once.

    Stopping between steps is what makes the state exact: an exception in mid-step would save half of one.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, state: Path) -> None:
        self.state = state
        self.stopped = False
        self._asked = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals for the time of training."""
        self._before = {s: signal.signal(s, self._ask) for s in self.SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Stop here if asked to."""
        if self._asked and not self.stopped:
            trainer.save_checkpoint(self.state)
            self.stopped = trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back: Lightning tears nothing down after an error."""
        self.teardown(trainer, pl_module, "fit")
