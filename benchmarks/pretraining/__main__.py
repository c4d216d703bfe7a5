"""Training pairs per second, against a plain loop of lightly's parts on images and against the least loop there is.

    python -m benchmarks.pretraining --json pretraining.json
    python -m benchmarks.pretraining --methods simclr --arch resnet18 --size 64 --batch 64 --arms ours-compiled bare

- ours: ``run_pretrain.py``'s own training, which renders the fractals while it runs; ``ours-compiled`` with
  ``--compile``.
- plain: the loop of lightly's examples in float32: the same encoder and heads, lightly's losses, SGD, and a DataLoader
  over as many images in memory with the same augmentation by torchvision. ``plain-bf16`` is that in bfloat16 autocast.
- bare: our networks, compiled, and our loss in a loop that does nothing else: one batch of random views, no trainer.

All have the same number of training threads and of threads or processes that make views.

A machine that others use is noisy: the arms take turns, the first batches of each turn are not counted, and the medians
over the turns are compared. The pairs of a turn, the turns and the machine are in the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning  # noqa: F401  (sets its own level of logging when it is imported)
import torch

from benchmarks.pretraining.ours import bare, ours
from benchmarks.pretraining.plain import METHODS as PLAIN
from benchmarks.pretraining.plain import plain
from benchmarks.pretraining.timing import Setting
from fps_pretrain.config.method import names

ARMS: dict[str, Callable[[Setting], float]] = {
    "ours": lambda setting: ours(setting, compiled=False),
    "ours-compiled": lambda setting: ours(setting, compiled=True),
    "plain": lambda setting: plain(setting, bf16=False),
    "plain-bf16": lambda setting: plain(setting, bf16=True),
    "bare": bare,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--methods", nargs="+", default=["simsiam", "moco"], choices=names())
    parser.add_argument("--arms", nargs="+", default=["ours", "plain-bf16", "plain"], choices=list(ARMS))
    parser.add_argument("--arch", default="resnet20", help="encoder, as of run_pretrain.py")
    parser.add_argument("--size", type=int, default=32, help="side of a view in pixels")
    parser.add_argument("--batch", type=int, default=256, help="pairs in a batch")
    parser.add_argument("--turns", type=int, default=5, help="turns of each arm")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads of the training process")
    parser.add_argument("--workers", type=int, default=1, help="processes or threads that make views")
    options = parser.parse_args()
    if {"plain", "plain-bf16"} & {*options.arms} and (options.arch != "resnet20" or not {*options.methods} <= {*PLAIN}):
        parser.error(f"the plain loop trains resnet20 with {' or '.join(PLAIN)}: name other --arms")
    return options


def main() -> int:
    """Measure, print a table and write the file."""
    options = _parse()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates: dict[str, dict[str, list[float]]] = {method: {arm: [] for arm in options.arms} for method in options.methods}
    for turn in range(options.turns):
        for method in options.methods:
            setting = Setting(method, options.arch, options.size, options.batch, options.steps, options.workers, device)
            for arm in options.arms:
                rate = ARMS[arm](setting)
                rates[method][arm].append(round(rate, 1))
                print(f"turn {turn + 1}/{options.turns}: {method}, {arm}: {rate:.1f} pairs/s", file=sys.stderr)
    medians = {method: {arm: statistics.median(r) for arm, r in by_arm.items()} for method, by_arm in rates.items()}
    last = options.arms[-1]
    print(f"{'method':10}" + "".join(f"{arm:>15}" for arm in options.arms) + f"   {options.arms[0]} / {last}")
    for method, by_arm in medians.items():
        ratio = f"{by_arm[options.arms[0]] / by_arm[last]:.2f}"
        print(f"{method:10}" + "".join(f"{by_arm[arm]:>15.1f}" for arm in options.arms) + f"   {ratio:>12}")
    if options.json:
        where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
        content = {
            "pairs_per_second": rates,
            "medians": medians,
            **{
                name: getattr(options, name)
                for name in ("arch", "size", "batch", "turns", "steps", "threads", "workers")
            },
            "machine": {"device": where, "cpus": os.cpu_count(), "capabilities": dict(torch.cpu.get_capabilities())},
            "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
