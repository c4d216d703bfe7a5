"""What is timed, and how: pairs a second after the first few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP = 3
"""Steps before the clock starts."""


@dataclass(frozen=True)
class Setting:
    """What is trained, and with what.

    Attributes:
        method: a name of ``--method``.
        arch: encoder, as of ``--arch``.
        size: side of a view in pixels.
        batch: pairs in a batch.
        steps: steps on the clock.
        workers: threads, or processes of a DataLoader, that make views.
        device: where training runs.
    """

    method: str
    arch: str
    size: int
    batch: int
    steps: int
    workers: int
    device: torch.device


def timed(batches: Iterator[Any], step: Callable[[Any], None], batch: int) -> float:
    """Pairs per second of ``step`` over all batches but the first few, waiting for them included."""
    counted, started = 0, 0.0
    for number, views in enumerate(batches):
        step(views)
        wait_for_gpu()
        if number + 1 == WARM_UP:
            started = time.perf_counter()
        counted += number >= WARM_UP
    return counted * batch / (time.perf_counter() - started)


def wait_for_gpu() -> None:
    """Wait until a GPU has done what it was told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
