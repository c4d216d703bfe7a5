"""FedAvgM (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution", section 4.3).

FedAvg with momentum at the server. With ``d = w - mean(w_k)``: ``v <- beta v + d``, ``w <- w - lr v``. The strategy
is Flower's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM as FlowerFedAvgM

from federated.algorithms.fedavg import FedAvg, as_numpy
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig
from federated.server.cohort import ServerState


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedAvgM."""

    mean_only: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 1.0
    """Step of the server."""
    server_momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of the server."""


def build_strategy(config: RunConfig) -> FedAvgM:
    """Flower's FedAvgM."""
    return FedAvgM(server_learning_rate=config.option("server_lr"), server_momentum=config.option("server_momentum"))


class FedAvgM(FlowerFedAvgM, FedAvg):
    """Flower's FedAvgM, starting each round from the model it is given."""

    carried = ("momentum_vector",)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages as in FedAvg."""
        # Flower's would stay with the first model it ever saw and its own results from there.
        self.current_arrays = arrays.copy()
        return super().configure_train(server_round, arrays, config, grid)

    def load_state_dict(self, state: ServerState) -> None:
        """Go on from what ``state_dict`` returned; Flower keeps this momentum as a list."""
        if "momentum_vector" in state:
            self.momentum_vector = list(as_numpy(state["momentum_vector"]).values())
