"""FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2).

With ``d = mean(w_k) - w``: ``m <- b1 m + (1 - b1) d``, ``v <- b2 v + (1 - b2) d^2``,
``w <- w + lr c m / (sqrt(v) + tau)``. The strategy is Flower's, which in round t scales the step by Adam's bias
correction ``c = sqrt(1 - b2^(t + 1)) / (1 - b1^(t + 1))``; the paper has none.
"""

from __future__ import annotations

from flwr.serverapp.strategy import FedAdam as FlowerFedAdam

from federated.algorithms.fedavg import ALL_NODES, FedAvg, as_numpy
from federated.algorithms.fedavg import train_client as train_client  # clients do as in FedAvg
from federated.config import RunConfig
from federated.strategy import ServerState

OPTIONS = {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}


def build_strategy(config: RunConfig) -> FedAdam:
    """Flower's FedAdam."""
    return FedAdam(
        **ALL_NODES,
        eta=config.option("server_lr"),
        beta_1=config.option("beta1"),
        beta_2=config.option("beta2"),
        tau=config.option("tau"),
    )


class ServerOptimizer(FedAvg):
    """What Flower's adaptive server optimisers hand from round to round: their first and second moments."""

    carried = ("m_t", "v_t")

    def load_state_dict(self, state: ServerState) -> None:
        """Go on from what ``state_dict`` returned."""
        for name in self.carried:
            if name in state:
                setattr(self, name, as_numpy(state[name]))


class FedAdam(FlowerFedAdam, ServerOptimizer):
    """Flower's FedAdam over the mean of ``fedavg``, with a state that can be saved."""
