"""Are the pairs that a GPU makes those of the CPU?

    python -m benchmarks.pictures --device cuda

Devices round differently: a point on the border of two cells of the picture may fall into the other one, and an
exponential may differ in its last digits. So a few views differ a little. More than ``MOST`` of them is an error.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from fps_pretrain.config.pairs import PairOptions
from fps_pretrain.pairs.device import DeviceFractalSource
from fps_pretrain.pairs.sources import FractalSource

TOLERANCE = 1e-4
"""Difference of two normalised pixels from which a view counts as different."""

MOST = 0.05
"""Share of the views that may differ. An H100 had 0.006 to 0.015."""

PIXELS = 2**21
"""Pixels of the first views that are compared at each size."""

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "shared, jitter, texture": {"renders": "shared", "colour": "jitter", "background": "diamond-square"},
}


def share_that_differs(size: int, options: dict[str, Any], device: torch.device) -> float:
    """Share of the views of ``size`` pixels that differ from the CPU's by more than ``TOLERANCE`` somewhere."""
    recipe, count = PairOptions(size=size, **options).recipe(), max(8, PIXELS // size**2)
    ours = FractalSource(recipe, 0).batch(0, 0, count)
    theirs = DeviceFractalSource(recipe, 0, device=device).batch(0, 0, count).cpu()
    return float(((ours - theirs).abs().amax((2, 3, 4)) > TOLERANCE).float().mean())


def main() -> int:
    """Compare at three sizes; returns 1 if too many views differ."""
    parser = argparse.ArgumentParser(prog="benchmarks.pictures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 224])
    options = parser.parse_args()
    device, worst = torch.device(options.device), 0.0
    for size in options.sizes:
        for name, numbers in RECIPES.items():
            share = share_that_differs(size, numbers, device)
            print(f"{size} px, {name}: {share:.2%} of the views differ by more than {TOLERANCE:g}", flush=True)
            worst = max(worst, share)
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
