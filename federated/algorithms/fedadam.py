"""FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2).

With ``d = mean(w_k) - w``: ``m <- b1 m + (1 - b1) d``, ``v <- b2 v + (1 - b2) d^2``,
``w <- w + lr c m / (sqrt(v) + tau)``. The strategy is Flower's, which in round t scales the step by Adam's bias
correction ``c = sqrt(1 - b2^(t + 1)) / (1 - b1^(t + 1))``; the paper has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Gt, Lt
from flwr.serverapp.strategy import FedAdam as FlowerFedAdam

from federated import algorithms
from federated.algorithms.fedavg import FedAvg, as_numpy
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config.algorithm import AlgorithmOptions
from federated.config.run import RunConfig
from federated.server.cohort import ServerState


@dataclass(frozen=True)
class Options(AlgorithmOptions):
    """Options of FedAdam."""

    mean_only: ClassVar[bool] = True

    server_lr: Annotated[float, Gt(0)] = 0.01
    """Step of the server."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay of the second moment."""
    tau: Annotated[float, Gt(0)] = 0.001
    """Added to the root of the second moment."""


def build_strategy(config: RunConfig) -> FedAdam:
    """Flower's FedAdam."""
    return FedAdam.of(config)


class ServerOptimizer(FedAvg):
    """Flower's adaptive server optimisers; they hand their first and second moments from round to round."""

    carried = ("m_t", "v_t")

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The optimiser with those of the options that it takes."""
        names = {"server_lr": "eta", "beta1": "beta_1", "beta2": "beta_2", "tau": "tau"}
        return cls(**{names[option]: config.option(option) for option in algorithms.options(config.strategy)})

    def load_state_dict(self, state: ServerState) -> None:
        """Go on from what ``state_dict`` returned."""
        for name in self.carried:
            if name in state:
                setattr(self, name, as_numpy(state[name]))


class FedAdam(FlowerFedAdam, ServerOptimizer):
    """Flower's FedAdam over the mean of ``fedavg``, with a state that can be saved."""
