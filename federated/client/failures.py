"""Clients that fail: how one is noticed, and how to make some fail on purpose."""

from __future__ import annotations

import math
import time
from typing import Literal

from federated.config.run import RunConfig
from fps_pretrain.common.keys import numpy_rng

Failure = Literal["raise", "nan", "slow"]

CLIENT_FAILED = 2
"""Flower's error code for an exception in a ClientApp."""

HANG_GRACE = 30.0
"""Seconds beyond ``--client-timeout`` after which a client that does not give up by itself is given up."""


class ClientTimeout(RuntimeError):
    """A client took longer than ``--client-timeout``."""


class InjectedFailure(RuntimeError):
    """A client was told to fail by ``--inject-failures``."""


class Deadline:
    """The time a client has for a round, looked at between two batches.

    Args:
        seconds: how long from now, or None for ever.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Go on, or give up.

        Raises:
            ClientTimeout: the time is over.
        """
        if time.monotonic() > self._end:
            raise ClientTimeout(f"took longer than {self.seconds:g} s")

    def wait(self) -> None:
        """Sleep past the deadline."""
        time.sleep(max(0.0, self._end - time.monotonic()) + 0.001)


def injected(config: RunConfig, server_round: int, client: int) -> Failure | None:
    """How a client fails in a round, as a function of (seed, round, client); None for most.

    Of those that ``--inject-failures`` hits, as many raise as send weights that are not a number as, where there is a
    ``--client-timeout`` to exceed, are too slow.
    """
    if not config.inject_failures:
        return None
    kinds: tuple[Failure, ...] = ("raise", "nan", "slow") if config.client_timeout else ("raise", "nan")
    rng = numpy_rng(config.seed, "failures", server_round, client)
    hit, kind = rng.random() < config.inject_failures, kinds[rng.integers(len(kinds))]
    return kind if hit else None
