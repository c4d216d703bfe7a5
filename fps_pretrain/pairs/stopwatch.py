"""Measurement of the time that pairs take."""

from __future__ import annotations

import time
from collections import deque

import torch


class Stopwatch:
    """Adds up the seconds spent inside its ``with`` blocks."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._total += time.perf_counter() - self._since

    def seconds(self) -> float:
        """The sum so far."""
        return self._total


class CudaStopwatch(Stopwatch):
    """Adds up the seconds that the GPU works on what is started inside its ``with`` blocks, without waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def __enter__(self) -> None:
        # CUDA is asynchronous: these events happen when the GPU has finished what was started before them.
        self._running.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        self._running[-1][0].record()

    def __exit__(self, *error: object) -> None:
        self._running[-1][1].record()

    def seconds(self) -> float:
        """The sum over the blocks that the GPU has finished."""
        while self._running and self._running[0][1].query():
            start, end = self._running.popleft()
            self._total += start.elapsed_time(end) / 1000.0
        return self._total
