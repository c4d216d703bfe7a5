"""Trimmed mean (Yin et al. 2018, "Byzantine-Robust Distributed Learning", algorithm 1, option II).

Of the clients' values for a parameter a share is cut off at either end; the plain mean of the rest is taken. The
strategy is Flower's.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar

from annotated_types import Gt, Lt
from flwr.serverapp.strategy import FedTrimmedAvg

from federated.algorithms import flower
from federated.algorithms.base import Setting
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of the trimmed mean."""

    robust: ClassVar[bool] = True

    trim: Annotated[float, Gt(0), Lt(0.5)] = 0.2
    """Share of the clients' values cut off at either end."""

    @property
    def least_replies(self) -> int:
        """As many as let a value be cut off at either end."""
        return -int(-1 // self.trim)


def _cut(setting: Setting) -> dict[str, float]:
    """Flower's share, which it multiplies and rounds down: of 100 values 0.29 would cut off 28."""
    count = int(Fraction(str(setting.options.trim)) * setting.participants)
    return {"beta": (count + 0.25) / setting.participants}


init, combine = flower.server_step(FedTrimmedAvg, _cut)
