"""How fast fractal pairs are made, augmented and ready for the network, against torchvision's own augmentation.

    python -m benchmarks.pairs                      # the table below
    python -m benchmarks.pairs --sizes 32 --threads 1 2 4 --json pairs.json
    python -m benchmarks.pairs --paths tensor --device cuda

Paths: ``compiled`` is the processor's code, ``tensor`` the torch operations that a GPU runs (``--device``). The
yardstick is torchvision's per-image augmentation of ready images, as its users write it (PIL images, one process, one
thread), timed in turns with the rest in the same run; pairs per view is what a machine's speed does not change. For the
released code of the paper 243 pairs/s at 32 px and 45 at 224 px are known, 0.40 and 0.29 pairs per view, by a yardstick
that did 600 and 154 views/s.

Measured on 2026-11-22, otherwise idle, medians of 7 turns:

    Intel(R) Xeon(R) Processor (2 cores, AVX-512); Python 3.11.7, numba 0.68.1, torch 2.15.0, torchvision 0.29.2
     size path             threads    pairs/s  views/s of torchvision  pairs per view
       32 compiled               1     27,453                   1,686            16.3
       32 compiled               2     50,277                   1,686            29.8
      224 compiled               1        442                     238             1.9
      224 compiled               2        845                     238             3.6
    32 px: 341,616 renders/s; codes 5%, chaos game 32%, colour, paste, blur 27%, augmentation 36%
    224 px: 6,260 renders/s; codes 0%, chaos game 50%, colour, paste, blur 25%, augmentation 26%
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from fps_pretrain.fractals.batch import fractal_batch
from fps_pretrain.fractals.codes import SEEDED_CODES, fill_code_table
from fps_pretrain.fractals.compiled import compiled
from fps_pretrain.fractals.compose.choose import epoch_order
from fps_pretrain.fractals.compose.pairs import compose_pairs
from fps_pretrain.fractals.compose.scratch import empty_scratch
from fps_pretrain.fractals.recipe import Recipe, make_recipe
from fps_pretrain.fractals.render import empty_images, render
from fps_pretrain.fractals.rng import IMAGE_STREAM, make_key
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD
from fps_pretrain.pairs.device import DeviceFractalSource

TURNS = 7
SECONDS = 0.5
"""Length of one turn, about."""
BATCH = 256


def yardstick(size: int) -> Callable[[int], None]:
    """torchvision's augmentation of so many ready images of ``size`` pixels."""
    numbers = make_recipe(size).augment
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(numbers.crop_low, numbers.crop_high)),
            transforms.RandomApply(
                [transforms.ColorJitter(numbers.brightness, numbers.contrast, numbers.saturation, numbers.hue)],
                p=numbers.colour_probability,
            ),
            transforms.RandomGrayscale(numbers.grey_probability),
            transforms.RandomApply(
                [transforms.GaussianBlur(5, (numbers.blur_low, numbers.blur_high))], p=numbers.blur_probability
            ),
            transforms.RandomHorizontalFlip(numbers.mirror_probability),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = [Image.fromarray(p) for p in np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)]

    def run(count: int) -> None:
        for i in range(count):
            augment(images[i % len(images)])

    return run


@compiled()
def _codes(recipe: Recipe, count: int) -> None:
    maps, sizes = np.empty((32, 4, 2, 3)), np.empty(32, np.int64)
    for i in range(0, count, 32):
        fill_code_table(recipe.codes, 0, i, maps, sizes)


@compiled()
def _renders(recipe: Recipe, count: int) -> None:
    images = empty_images(recipe, 32)
    fill_code_table(recipe.codes, 0, 0, images.codes, images.sizes)
    for i in range(0, count, 32):
        for k in range(32):
            images.keys[k] = make_key(0, IMAGE_STREAM, i, k)
        render(recipe, min(32, count - i), images)


@compiled()
def _composed(recipe: Recipe, count: int) -> None:
    scratch = empty_scratch(recipe)
    views = np.empty((2, scratch.pairs, recipe.size, recipe.size), np.uint32)
    order = epoch_order(0, 0, recipe.num_classes)
    for i in range(0, count, scratch.pairs):
        compose_pairs(recipe, SEEDED_CODES, 0, 0, order, i, min(scratch.pairs, count - i), scratch, views)


def compiled_pairs(recipe: Recipe, threads: int) -> Callable[[int], None]:
    """So many pairs by the processor's code, in batches."""
    out = np.empty((2, BATCH if recipe.size <= 64 else 64, 3, recipe.size, recipe.size), np.float32)

    def run(count: int) -> None:
        for first in range(0, count, out.shape[1]):
            fractal_batch(recipe, 0, 0, first, out, threads=threads)

    return run


def tensor_pairs(recipe: Recipe, device: torch.device) -> Callable[[int], None]:
    """So many pairs by torch operations on a device, in its blocks."""
    source = DeviceFractalSource(recipe, 0, device=device, block=None if device.type == "cuda" else 64)

    def run(count: int) -> None:
        for first in range(0, count, source.block):
            source.batch(run.calls, first, min(source.block, count - first))  # type: ignore[attr-defined]
            run.calls += 1  # type: ignore[attr-defined]
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run.calls = 0  # type: ignore[attr-defined]
    return run


def rates(tasks: dict[str, Callable[[int], None]], turns: int, seconds: float) -> dict[str, float]:
    """Items per second of each task: the median over turns in which all take their turn."""
    counts: dict[str, int] = {}
    for name, run in tasks.items():
        run(BATCH)  # compile, and fill caches
        count = BATCH
        while True:
            began = time.perf_counter()
            run(count)
            took = time.perf_counter() - began
            if took > 0.05:
                break
            count *= 2
        # Whole batches, so that what is asked for is what is made.
        counts[name] = max(1, round(count * seconds / took / BATCH)) * BATCH
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(turns):
        for name, run in tasks.items():
            began = time.perf_counter()
            run(counts[name])
            found[name].append(counts[name] / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in found.items()}


def measure(size: int, paths: list[str], threads: list[int], device: torch.device, turns: int, seconds: float) -> Any:
    """Rows of one size, and the stages' shares of the compiled path on one thread."""
    recipe = make_recipe(size)
    tasks = {
        "yardstick": yardstick(size),
        "codes": lambda count: _codes(recipe, count),
        "renders": lambda count: _renders(recipe, count),
        "composed": lambda count: _composed(recipe, count),
        "stages": compiled_pairs(recipe, 1),
    }
    runs: list[tuple[str, str, int]] = []
    if "compiled" in paths:
        for number in threads:
            tasks[f"compiled {number}"] = compiled_pairs(recipe, number)
            runs.append((f"compiled {number}", "compiled", number))
    if "tensor" in paths:
        tasks["tensor"] = tensor_pairs(recipe, device)
        runs.append(("tensor", f"tensor on {device.type}", torch.get_num_threads()))
    rate = rates(tasks, turns, seconds)
    objects = (recipe.min_objects + recipe.max_objects) / 2
    whole = 1 / rate["stages"]
    drawn = objects / rate["codes"] + 2 * objects / rate["renders"]
    shares = {
        "codes": objects / rate["codes"] / whole,
        "chaos game": 2 * objects / rate["renders"] / whole,
        "colour, paste, blur": (1 / rate["composed"] - drawn) / whole,
        "augmentation": (whole - 1 / rate["composed"]) / whole,
    }
    rows = [
        {
            "size": size,
            "path": path,
            "threads": number,
            "pairs_per_second": rate[name],
            "yardstick_views_per_second": rate["yardstick"],
            "pairs_per_view": rate[name] / rate["yardstick"],
            "renders_per_second": rate["renders"],
            "stages": shares if path == "compiled" else None,
        }
        for name, path, number in runs
    ]
    return rows, shares, rate


def main() -> int:
    """Measure, print a table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224], help="sides of a view in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of the compiled path")
    parser.add_argument(
        "--paths", nargs="+", choices=["compiled", "tensor"], help="default: tensor where there is CUDA"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the tensor path")
    parser.add_argument("--turns", type=int, default=TURNS, help="how often each is timed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of a turn")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    paths = options.paths or ["compiled", *(["tensor"] if device.type == "cuda" else [])]
    versions = f"Python {platform.python_version()}, numba {numba.__version__}, torch {torch.__version__}"
    print(f"{processor()}; {versions}, torchvision {torchvision.__version__}")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    print(
        f"{'size':>5} {'path':16} {'threads':>7} {'pairs/s':>10} {'views/s of torchvision':>23} {'pairs per view':>15}"
    )
    rows: list[dict[str, Any]] = []
    remarks = []
    for size in options.sizes:
        some, shares, rate = measure(size, paths, options.threads, device, options.turns, options.seconds)
        for row in some:
            print(
                f"{size:5} {row['path']:16} {row['threads']:7} {row['pairs_per_second']:10,.0f} "
                f"{row['yardstick_views_per_second']:23,.0f} {row['pairs_per_view']:15.1f}",
                flush=True,
            )
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        remarks.append(f"{size} px: {rate['renders']:,.0f} renders/s; {parts}")
        rows += some
    print("\n".join(remarks))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
