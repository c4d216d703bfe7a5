"""``run_pretrain.py``'s own training, and a bare loop around the same networks."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.pretraining.timing import WARM_UP, Setting, timed, wait_for_gpu
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models.hardware import native_precision
from fps_pretrain.pairs.data_module import PairData, make_source
from fps_pretrain.training.devices import with_precision
from fps_pretrain.training.loggers import loggers
from fps_pretrain.training.progress import PairRate
from fps_pretrain.training.resume import KeepState
from fps_pretrain.training.trainer import build_method, compile_networks, make_trainer


class Clock(Callback):
    """Notes the moments at which counting begins and ends."""

    began = ended = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Look at the clock after every step."""
        wait_for_gpu()
        if trainer.global_step == WARM_UP:
            self.began = time.perf_counter()
        self.ended = time.perf_counter()


def _build(setting: Setting, folder: Path, compiled: bool) -> tuple[PretrainConfig, PairMethod]:
    gpu = setting.device.type == "cuda"
    config = PretrainConfig(
        method=setting.method,
        preset="paper",  # the numbers of the plain loop
        renders="fresh",
        arch=setting.arch,
        size=setting.size,
        epochs=1,
        pairs_per_epoch=(setting.steps + WARM_UP) * setting.batch,
        batch_size=setting.batch,
        workers=setting.workers,
        device="cuda" if gpu else "cpu",
        run_dir=folder,
    ).resolve(has_gpu=gpu)
    config = with_precision(config, native_precision(gpu))
    method = build_method(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        compile_networks(method)
    return config, method


def ours(setting: Setting, compiled: bool) -> float:
    """Pairs per second of ``run_pretrain.py``'s training, with ``--compile`` or without."""
    gpu = setting.device.type == "cuda"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, method = _build(setting, folder, compiled)
        clock = Clock()
        callbacks = [clock, PairRate(setting.batch, config.log_every), KeepState(folder, 120.0)]
        trainer = make_trainer(config, method, gpu, callbacks, loggers(config, first=True))
        trainer.fit(method, datamodule=PairData(config, make_source(config, setting.device), setting.workers))
        return setting.steps * setting.batch / (clock.ended - clock.began)


def bare(setting: Setting) -> float:
    """Pairs per second of the least loop: the same networks, compiled, the same loss, in the same precision.

    No trainer, no log, no state to resume from, and no pairs to make: one batch of random views again and again.
    """
    with tempfile.TemporaryDirectory() as name:
        config, method = _build(setting, Path(name), compiled=True)
    method.to(setting.device)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    shape = (2, setting.batch, 3, setting.size, setting.size)
    views = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device)
    first, second = (view.contiguous(memory_format=torch.channels_last) for view in views)

    def step(_: int) -> None:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = method.pair_loss(*method.embed_pair(first, second))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return timed(iter(range(setting.steps + WARM_UP)), step, setting.batch)
