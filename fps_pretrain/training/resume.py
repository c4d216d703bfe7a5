"""The state a run resumes from: written whole or not at all, and read even when its newest copy is torn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, Handlers, getsignal, signal
from types import FrameType
from typing import Any

import pytorch_lightning as L
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checksum import why_misfit, with_checksum
from fps_pretrain.models.tensor_file import read_with_checksum, write_atomically

STATE = "state.ckpt"
PREVIOUS = "state.previous.ckpt"


def newest_state(folder: Path) -> Path | None:
    """The newest whole state in a run folder, or None."""
    return next((path for path in (folder / STATE, folder / PREVIOUS) if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    """Whether a file can be read and is as it was written."""
    try:
        read_with_checksum(path)
    except UserError:
        return False
    return True


def check_state(path: Path, like: Mapping[str, Tensor], total_steps: int) -> None:
    """Refuse a whole file that is no state of this run.

    Args:
        path: the file.
        like: the method's state dict before training.
        total_steps: steps of the whole run.

    Raises:
        UserError: as said; the message names what is wrong.
    """
    content = read_with_checksum(path)
    step, optimizers = content.get("global_step"), content.get("optimizer_states")
    loops = content.get("loops")
    if type(step) is not int or not 0 <= step <= total_steps or not isinstance(loops, dict) or "fit_loop" not in loops:
        why: str | None = f"it names no step of {total_steps:,}"
    elif not isinstance(optimizers, list) or not optimizers or not isinstance(content.get("lr_schedulers"), list):
        why = "it lacks the optimiser"
    else:
        why = why_misfit(content.get("state_dict"), like)
    if why:
        raise UserError(f"{path} is not a state of this run: {why}; --no-resume keeps the run aside and starts over")


class StateIO(CheckpointIO):
    """Keeps one state of a run, whatever Lightning wants to call it (a requeued job's has a name of its own).

    It is written aside, flushed to disk and renamed; the one before stays beside it as ``state.previous.ckpt``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace the state.

        Raises:
            OSError: it cannot be written; the last good state is as it was.
        """
        state, previous = self.folder / STATE, self.folder / PREVIOUS
        aside = self.folder / f".{STATE}.{os.getpid()}.partial"
        try:
            write_atomically(aside, with_checksum(checkpoint))
            if state.exists():
                os.replace(state, previous)
            os.replace(aside, state)
        finally:
            aside.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Tensors and plain values of a state; nothing else is ever unpickled."""
        return read_with_checksum(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Nothing: the state is replaced, never removed."""


AGREE_EVERY = 8
"""Steps between two decisions to save or to stop when several devices train, since they must agree."""


class KeepState(Callback):
    """Saves the state every so many seconds; on Ctrl-C, SIGTERM or SIGHUP finishes the step, saves and stops.

    A second signal stops at once, unless it is SIGHUP, which a closed terminal sends twice. Under Slurm, SIGUSR1 does
    what Lightning does with it, save and requeue, but between two steps: that is what makes a state exact. When several
    devices train, rank 0 decides for all of them.

    Args:
        folder: the run folder.
        interval: seconds between two saves.
    """

    def __init__(self, folder: Path, interval: float) -> None:
        self.folder = folder
        self.interval = interval
        self.stopped = False
        self._saved = 0.0
        self._asked = 0
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self._asked and signum not in (SIGUSR1, SIGHUP):
            raise KeyboardInterrupt
        self._asked = signum

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals for the time of training."""
        signals = [SIGINT, SIGTERM]
        if getsignal(SIGHUP) != Handlers.SIG_IGN:  # as nohup has it
            signals.append(SIGHUP)
        if getsignal(SIGUSR1) not in (None, Handlers.SIG_DFL, Handlers.SIG_IGN):
            signals.append(SIGUSR1)
        self._before = {s: signal(s, self._ask) for s in signals}
        self._saved = time.monotonic()

    def _decide(self, trainer: L.Trainer) -> int:
        """0 to go on, -1 to save, or the signal to obey."""
        wanted = self._asked or (-1 if time.monotonic() - self._saved >= self.interval else 0)
        if trainer.world_size == 1:
            return wanted
        if trainer.global_step % AGREE_EVERY:
            return 0
        decision = torch.tensor(wanted, device=trainer.strategy.root_device)
        torch.distributed.broadcast(decision, src=0)
        return int(decision)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save or stop here if it is time to."""
        if self.stopped or not (decision := self._decide(trainer)):
            return
        self.save(trainer)
        if decision == SIGUSR1:
            handler = self._before[SIGUSR1]
            self._asked = 0
            assert callable(handler)
            handler(SIGUSR1, None)
        elif decision > 0:
            self.stopped = trainer.should_stop = True

    def save(self, trainer: L.Trainer) -> None:
        """Save the state, and before it the lines of the log that a resumed run will not write again."""
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.flush()
        trainer.save_checkpoint(self.folder / STATE)
        self._saved = time.monotonic()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for signum, handler in self._before.items():
            signal(signum, handler)
        self._before = {}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back: Lightning tears nothing down after an error."""
        self.teardown(trainer, pl_module, "fit")
