"""An alarm for the three ways in which self-supervised training learns nothing while its loss looks well."""

from __future__ import annotations

from collections import deque
from statistics import fmean
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import Callback

from fps_pretrain.common.log import logger

COLLAPSED = 0.1
"""Embedding spread below which nearly all views are at one point; 1 is an even spread over the sphere."""

ONE_DIMENSIONAL = 1.5
"""Effective rank below which embeddings, or features, vary along one line only."""

NO_INFORMATION, INFORMATION = 0.001, 0.005
"""Loss on shuffled pairs minus loss on true pairs, averaged over ``WINDOW`` values: below the first the views of a pair
are no closer than any two views; above the second they are again."""

WINDOW = 20
INFORMATION_DUE = 25_600
"""Pairs after which a run should have begun to tell true pairs from shuffled ones."""


class _Watch:
    """Raises an alarm when a sign is bad several times in a row, and takes it back when the sign is good.

    Args:
        patience: how many bad values in a row raise it.
        begins: step from which bad values count, unless a good one has come earlier.
    """

    def __init__(self, patience: int, begins: int) -> None:
        self.patience = patience
        self.begins = begins
        self.count = 0

    @property
    def raised(self) -> bool:
        """Whether the sign has been bad for long enough."""
        return self.count >= self.patience

    def see(self, bad: bool, step: int) -> str:
        """``begins`` or ``ends`` when this value raises the alarm or takes it back, else an empty string."""
        before = self.raised
        if not bad:
            self.count, self.begins = 0, 0
            return "ends" if before else ""
        self.count += step >= self.begins
        return "begins" if self.raised and not before else ""


class CollapseAlarm(Callback):
    """Warns when embeddings collapse, says what to try, and says so when they have recovered. Only rank 0 reports.

    - To a point: the embedding spread stays under ``COLLAPSED`` (Chen and He, CVPR 2021, section 4.1 and figure 2).
    - To a line: the effective rank of the embeddings, or of the features below the head, stays under
      ``ONE_DIMENSIONAL``, at whatever spread (dimensional collapse in small encoders: Li et al., ECCV 2022). On fractal
      pairs plain SimSiam's features do: a constant prediction scores, and the head's BatchNorm keeps up the spread.
    - No pair information: the loss on true pairs is not below that on shuffled pairs after ``INFORMATION_DUE`` pairs.

    Where the head has no BatchNorm, such as MoCo's, spread and rank are low at the start: the first two wait until the
    value has been good once, or a fifth of the run is over.

    Args:
        every: steps between two values.
        total_steps: steps of the run.
        batch_size: pairs in a step.
        patience: how many bad values in a row raise the first two alarms.
    """

    def __init__(self, every: int, total_steps: int, batch_size: int, patience: int = 3) -> None:
        self.every = every
        self.batch_size = batch_size
        self._point = _Watch(patience, total_steps // 5)
        self._line = _Watch(patience, total_steps // 5)
        self._gaps: deque[float] = deque(maxlen=WINDOW)
        self._uninformed = False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Look at the last values of the log."""
        step = trainer.global_step
        if step % self.every or not trainer.is_global_zero or "embedding_spread" not in trainer.callback_metrics:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._look_at_spread(values["embedding_spread"], step)
        ranks = {
            name: values[f"{name[:-1]}_rank"] for name in ("embeddings", "features") if f"{name[:-1]}_rank" in values
        }
        if ranks and not self._point.count:  # without a spread the rank is that of rounding errors
            lowest = min(ranks, key=lambda name: ranks[name])
            self._look_at_rank(lowest, ranks[lowest], step)
        if "loss_shuffled" in values:
            self._gaps.append(values["loss_shuffled"] - values["loss"])
            self._look_at_gaps(step)

    def _look_at_spread(self, spread: float, step: int) -> None:
        change = self._point.see(spread < COLLAPSED, step)
        if change == "ends":
            logger.info(f"the embeddings have spread again at step {step}: {spread:.2f}")
        if change == "begins":
            logger.warning(
                f"warning: the embeddings have collapsed at step {step}: their spread is {spread:.3f}, "
                f"where 1 is even and under {COLLAPSED} all views look alike to the encoder. If it stays so, stop "
                "(Ctrl-C) and start over with a lower --lr or a larger --batch-size"
            )

    def _look_at_rank(self, name: str, rank: float, step: int) -> None:
        change = self._line.see(rank < ONE_DIMENSIONAL, step)
        if change == "ends":
            logger.info(f"embeddings and features use more than one dimension again at step {step}: {rank:.1f}")
        if change == "begins":
            logger.warning(
                f"warning: the {name} have collapsed to one dimension at step {step}: their effective rank is "
                f"{rank:.2f}, where 1 is a line. If it stays so, stop (Ctrl-C) and start over with "
                "--method-options centre=1 (simsiam), --method simclr, or a lower --lr"
            )

    def _look_at_gaps(self, step: int) -> None:
        if len(self._gaps) < WINDOW or step * self.batch_size < INFORMATION_DUE:
            return
        gap = fmean(self._gaps)
        if self._uninformed and gap > INFORMATION:
            self._uninformed = False
            logger.info(f"the views of a pair are closer than unrelated ones again at step {step}")
        elif not self._uninformed and gap <= NO_INFORMATION and not (self._point.raised or self._line.raised):
            self._uninformed = True
            logger.warning(
                f"warning: no pair information at step {step}: the loss on true pairs is not below that on shuffled "
                f"pairs (by {gap:.4f} over the last {WINDOW} values), so that the encoder learns nothing of what the "
                "views of a pair have in common. Try --composed-views 1, --method simclr, --method-options centre=1 "
                "(simsiam) or a larger --batch-size"
            )
