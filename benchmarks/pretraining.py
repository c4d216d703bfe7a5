"""Training pairs per second of each method at 32 px, against a plain loop of lightly's parts on images.

    python -m benchmarks.pretraining --json pretraining.json

Ours is ``run_pretrain.py``'s own training, with the fractals rendered while it runs. Plain is the loop of lightly's
examples in float32: the same encoder and heads, lightly's losses, SGD, and a DataLoader over as many images in memory
with the same augmentation by torchvision. ``plain-bf16`` is that in bfloat16 autocast. Both have the same number of
training threads and worker processes.

A machine that others use is noisy: the arms take turns, the first batches of each turn are not counted, and the medians
over the turns are compared. The pairs of a turn, the turns and the machine are in the file.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fps_pretrain.config.pretrain import PretrainConfig

SIZE = 32
BATCH = 256
WARM_UP = 3


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each of some images ``(N, 32, 32, 3)``, uint8, augmented by torchvision as the paper's pairs are."""

    def __init__(self, images: np.ndarray) -> None:
        from torchvision.transforms import v2

        from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD

        self.images = images
        self.transform = v2.Compose(
            [
                v2.ToPILImage(),
                v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index].transpose(2, 0, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        return self.transform(tensor), self.transform(tensor)


def _timed(batches: Iterator[Any], step: Callable[[Any], None]) -> float:
    """Pairs per second of ``step`` over all batches but the first few, waiting for them included."""
    counted, started = 0, 0.0
    for number, batch in enumerate(batches):
        step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number + 1 == WARM_UP:
            started = time.perf_counter()
        counted += number >= WARM_UP
    return counted * BATCH / (time.perf_counter() - started)


def plain(method: str, steps: int, workers: int, device: torch.device, bf16: bool) -> float:
    """Pairs per second of lightly's example loop for a method."""
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss
    from lightly.models.modules.heads import MoCoProjectionHead, SimSiamPredictionHead, SimSiamProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    from fps_pretrain.models.encoders import build_encoder

    torch.manual_seed(0)
    encoder = build_encoder("resnet20", seed=0)
    parts: dict[str, nn.Module] = {"encoder": encoder}
    if method == "simsiam":
        parts |= {"projector": SimSiamProjectionHead(64, 64, 512), "predictor": SimSiamPredictionHead(512, 128, 512)}
        similarity = NegativeCosineSimilarity()
    else:
        parts |= {"projector": MoCoProjectionHead(64, 64, 128)}
        keys = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items()}).to(device)
        deactivate_requires_grad(keys)
        contrast = NTXentLoss(temperature=0.2, memory_bank_size=(65_536, 128)).to(device)
    model = nn.ModuleDict(parts).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def loss_of(first: Tensor, second: Tensor) -> Tensor:
        if method == "simsiam":
            z1, z2 = (model["projector"](model["encoder"](view)) for view in (first, second))
            p1, p2 = model["predictor"](z1), model["predictor"](z2)
            return 0.5 * (similarity(p1, z2.detach()) + similarity(p2, z1.detach()))
        update_momentum(model, keys, 0.999)
        queries = model["projector"](model["encoder"](first))
        with torch.no_grad():
            targets = keys["projector"](keys["encoder"](second))
        return contrast(queries, targets)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        first, second = (view.to(device, non_blocking=True) for view in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(first, second)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    images = np.random.default_rng(0).integers(0, 255, ((steps + WARM_UP) * BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    loader = DataLoader(AugmentedImages(images), BATCH, shuffle=True, drop_last=True, num_workers=workers)
    return _timed(iter(loader), step)


def ours(method: str, steps: int, workers: int, device: torch.device) -> float:
    """Pairs per second of ``run_pretrain.py``'s training."""
    import pytorch_lightning as L
    from pytorch_lightning.callbacks import Callback

    from fps_pretrain.models.hardware import native_precision
    from fps_pretrain.pairs.data_module import PairData, make_source
    from fps_pretrain.training.devices import with_precision
    from fps_pretrain.training.loggers import loggers
    from fps_pretrain.training.progress import PairRate
    from fps_pretrain.training.resume import KeepState
    from fps_pretrain.training.trainer import build_method, make_trainer

    class Clock(Callback):
        """Notes the moments at which counting begins and ends."""

        began = ended = 0.0

        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            if trainer.global_step == WARM_UP:
                self.began = time.perf_counter()
            self.ended = time.perf_counter()

    gpu = device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        config = PretrainConfig(
            method=method,
            epochs=1,
            pairs_per_epoch=(steps + WARM_UP) * BATCH,
            batch_size=BATCH,
            workers=workers,
            device="cuda" if gpu else "cpu",
            run_dir=Path(folder),
        ).resolve(has_gpu=gpu)
        config = with_precision(config, native_precision(gpu))
        module = build_method(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        clock = Clock()
        callbacks = [clock, PairRate(BATCH, config.log_every), KeepState(Path(folder), 120.0, config.log_every)]
        trainer = make_trainer(config, module, gpu, callbacks, loggers(config, first=True))
        trainer.fit(module, datamodule=PairData(config, make_source(config, device), workers))
        return steps * BATCH / (clock.ended - clock.began)


def main() -> int:
    """Measure, print a table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--methods", nargs="+", default=["simsiam", "moco"], choices=["simsiam", "moco"])
    parser.add_argument("--arms", nargs="+", default=["ours", "plain", "plain-bf16"])
    parser.add_argument("--turns", type=int, default=5, help="turns of each arm")
    parser.add_argument("--steps", type=int, default=20, help=f"steps of {BATCH} pairs in a turn")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads of the training process")
    parser.add_argument("--workers", type=int, default=1, help="processes that make views")
    options = parser.parse_args()
    import pytorch_lightning  # noqa: F401  (sets its own level of logging when it is imported)

    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arms: dict[str, Callable[[str], float]] = {
        "ours": lambda method: ours(method, options.steps, options.workers, device),
        "plain": lambda method: plain(method, options.steps, options.workers, device, bf16=False),
        "plain-bf16": lambda method: plain(method, options.steps, options.workers, device, bf16=True),
    }
    rates: dict[str, dict[str, list[float]]] = {method: {arm: [] for arm in options.arms} for method in options.methods}
    for turn in range(options.turns):
        for method in options.methods:
            for arm in options.arms:
                rate = arms[arm](method)
                rates[method][arm].append(round(rate, 1))
                print(f"turn {turn + 1}/{options.turns}: {method}, {arm}: {rate:.0f} pairs/s", file=sys.stderr)
    medians = {method: {arm: statistics.median(r) for arm, r in by_arm.items()} for method, by_arm in rates.items()}
    print(f"{'method':10}" + "".join(f"{arm:>14}" for arm in options.arms) + "   ours / plain")
    for method, by_arm in medians.items():
        ratio = f"{by_arm['ours'] / by_arm['plain']:.2f}" if {"ours", "plain"} <= by_arm.keys() else ""
        print(f"{method:10}" + "".join(f"{by_arm[arm]:>14.0f}" for arm in options.arms) + f"   {ratio:>12}")
    if options.json:
        where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
        content = {
            "pairs_per_second": rates,
            "medians": medians,
            "batch": BATCH,
            "size": SIZE,
            "arch": "resnet20",
            **{name: getattr(options, name) for name in ("turns", "steps", "threads", "workers")},
            "machine": {"device": where, "cpus": os.cpu_count(), "capabilities": dict(torch.cpu.get_capabilities())},
            "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
