"""Clients that fail: the time limit of a round, and failures injected on purpose."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Literal

import torch
from flwr.app import Message, MetricRecord

from federated.config.run import RunConfig
from federated.messages import from_record
from fps_pretrain.common.keys import numpy_rng

Failure = Literal["raise", "nan", "slow"]

CLIENT_FAILED = 2
"""Flower's error code for an exception in a ClientApp."""

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


def reason_to_drop(reply: Message, shapes: Mapping[str, torch.Size]) -> str | None:
    """Why a reply to a train message cannot be used, in one line, or None if it can.

    Args:
        reply: a client's answer, an error among them.
        shapes: the parameters it must hold, with their shapes.
    """
    if reply.has_error():
        return last_line(reply)
    metrics = dict(reply.content.metric_records.get("metrics", MetricRecord()))
    if "arrays" not in reply.content.array_records or "num-examples" not in metrics:
        return "sent no weights or no number of examples"
    for name, record in reply.content.array_records.items():
        weights = from_record(record)
        if name == "arrays" and any(n not in weights or weights[n].shape != shape for n, shape in shapes.items()):
            return "sent the weights of another model"
        for tensor_name, tensor in weights.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"sent {name} that are not finite, {tensor_name} first"
    for name, value in metrics.items():
        if not all(math.isfinite(number) for number in (value if isinstance(value, list) else [value])):
            return f"sent a {name} that is not finite"
    return None if int(str(metrics["num-examples"])) > 0 else "trained on no examples"


def last_line(reply: Message) -> str:
    """The last line of an error reply's reason, which may be a traceback."""
    return (reply.error.reason or "no reason given").strip().splitlines()[-1]
