"""How long the trainer waits for pairs."""

from __future__ import annotations

import time
from collections import deque

import torch


class Stopwatch:
    """Counts the seconds spent inside its ``with`` blocks."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._total += time.perf_counter() - self._since

    def seconds(self) -> float:
        """What has been counted so far."""
        return self._total


class CudaStopwatch(Stopwatch):
    """Counts the seconds that the GPU is busy with what its ``with`` blocks ask of it, without waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def __enter__(self) -> None:
        # The GPU comes to these marks in their turn, after all that it was asked for before.
        self._running.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        self._running[-1][0].record()

    def __exit__(self, *error: object) -> None:
        self._running[-1][1].record()

    def seconds(self) -> float:
        """What has been finished so far."""
        while self._running and self._running[0][1].query():
            start, end = self._running.popleft()
            self._total += start.elapsed_time(end) / 1000.0
        return self._total
