"""Clients that fail: the time limit of a round, and failures injected on purpose."""

from __future__ import annotations

import math
import time
from typing import Literal

from federated.config.run import RunConfig
from fps_pretrain.common.keys import numpy_rng

Failure = Literal["raise", "nan", "slow"]

CLIENT_FAILED = 2
"""Flower's error code for an exception in a ClientApp."""

DISK_FAILED = 102
"""Error code of ours for a client that cannot write what it must remember."""

DIVERGED = 103
"""Error code of ours for a client whose training diverges."""

HANG_GRACE = 30.0
"""Seconds beyond ``--client-timeout`` after which a client that does not stop by itself is given up."""


class ClientTimeout(RuntimeError):
    """A client took longer than ``--client-timeout``."""


class InjectedFailure(RuntimeError):
    """A client was told to fail by ``--inject-failures``."""


class Deadline:
    """The time limit of a client in a round, checked between two batches.

    Args:
        seconds: the limit, counted from now; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Raise if the time is over.

        Raises:
            ClientTimeout: it is.
        """
        if time.monotonic() > self._end:
            raise ClientTimeout(f"took longer than {self.seconds:g} s")

    def wait(self) -> None:
        """Sleep past the deadline."""
        time.sleep(max(0.0, self._end - time.monotonic()) + 0.001)


def injected(config: RunConfig, server_round: int, client: int) -> Failure | None:
    """How a client fails in a round, a function of (seed, round, client); None if it does not.

    ``--inject-failures`` is the share of the clients' rounds that fail. The kinds are equally likely: an error, weights
    that are not a number and, with ``--client-timeout``, slowness.
    """
    if not config.inject_failures:
        return None
    kinds: tuple[Failure, ...] = ("raise", "nan", "slow") if config.client_timeout else ("raise", "nan")
    rng = numpy_rng(config.seed, "failures", server_round, client)
    hit, kind = rng.random() < config.inject_failures, kinds[rng.integers(len(kinds))]
    return kind if hit else None
