"""Convex problems whose answer is known, for the real strategies and client parts: linear regression at a few clients.

Client i's loss is ``F_i(w) = mean((x w - y)^2) / 2``. Batches hold all examples, so that a local step is a step of
gradient descent and a reference takes a few lines of NumPy. All is float64.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from federated import algorithms, open_workspace
from federated.client import workspace
from federated.client.training import ClientHyperparameters, Problem
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.data.sets import Dataset
from federated.engines.inprocess import InProcessGrid
from federated.engines.start import Engine
from federated.server.exchange import Clients
from federated.server.output.progress import RoundBar
from federated.server.output.run_folder import State
from federated.server.rounds import Loop, Round

Vector = NDArray[np.float64]


def _inputs(examples: Tensor, batch: Tensor, hyper: ClientHyperparameters, generator: torch.Generator) -> Tensor:
    return examples[batch]


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs[:, 0] - targets).square().mean()


@dataclass(frozen=True)
class LeastSquares:
    """Features ``(n_i, d)`` and targets ``(n_i,)`` of each client, who disagree about the best weights."""

    features: list[Vector]
    targets: list[Vector]

    @classmethod
    def draw(cls, sizes: Sequence[int] = (6, 6, 6, 6), dim: int = 3, seed: int = 0) -> LeastSquares:
        """Clients of these sizes, each with features on another scale and another truth."""
        rng = np.random.default_rng(seed)
        features = [rng.normal(size=(size, dim)) * rng.uniform(0.5, 1.5, dim) for size in sizes]
        targets = [part @ rng.normal(scale=3, size=dim) + rng.normal(size=len(part)) for part in features]
        return cls(features, targets)

    @property
    def clients(self) -> int:
        """How many there are."""
        return len(self.features)

    @property
    def dim(self) -> int:
        """Length of the weights."""
        return self.features[0].shape[1]

    @property
    def shares(self) -> Vector:
        """Each client's share of the examples."""
        sizes = np.array([len(part) for part in self.targets], float)
        return sizes / sizes.sum()

    def gradient(self, client: int, w: Vector) -> Vector:
        """Of the client's loss at ``w``."""
        x, y = self.features[client], self.targets[client]
        return x.T @ (x @ w - y) / len(y)

    def loss(self, client: int, w: Vector) -> float:
        """The client's loss at ``w``."""
        return float(np.mean((self.features[client] @ w - self.targets[client]) ** 2) / 2)

    def optimum(self, shares: Vector | None = None) -> Vector:
        """Where the mean of the clients' losses, plain or weighted by ``shares``, is least."""
        shares = np.full(self.clients, 1 / self.clients) if shares is None else shares
        weighted = list(zip(shares, self.features, self.targets, strict=True))
        hessian = sum(share * x.T @ x / len(y) for share, x, y in weighted)
        return np.linalg.solve(hessian, sum(share * x.T @ y / len(y) for share, x, y in weighted))

    def descend(
        self,
        client: int,
        w: Vector,
        lr: float,
        steps: int,
        momentum: float = 0.0,
        extra: Callable[[Vector], Vector] = np.zeros_like,
    ) -> Vector:
        """Local gradient descent from ``w``, with ``extra(w)`` added to the gradient."""
        velocity = np.zeros_like(w)
        for _ in range(steps):
            velocity = momentum * velocity + self.gradient(client, w) + extra(w)
            w = w - lr * velocity
        return w


@dataclass
class Federated:
    """A federation over such a problem, one round at a time, through the round loop, the grid and the ClientApp."""

    problem: LeastSquares
    folder: Path
    fields: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)

    def __post_init__(self) -> None:
        problem = self.problem
        self.config = RunConfig(
            **{
                "clients": problem.clients, "partition": "iid", "batch_size": 10**6, "local_epochs": 5, "lr": 0.1,
                "momentum": 0.0, "weight_decay": 0.0, "augment": "none", "device": "cpu", **self.fields,
            }
        )  # fmt: skip
        model = nn.Sequential(
            OrderedDict(encoder=nn.Identity(), head=nn.Linear(problem.dim, 1, bias=False, dtype=torch.float64))
        )
        ends = np.cumsum([len(part) for part in problem.targets])
        train = (torch.from_numpy(np.concatenate(problem.features)), torch.from_numpy(np.concatenate(problem.targets)))
        space = workspace.Workspace(
            self.config,
            cast(Dataset, None),
            np.split(np.arange(ends[-1]), ends[:-1]),
            model,
            torch.device("cpu"),
            train,
            Problem(_inputs, _loss),
        )
        message_config = open_workspace.message_config(self.config, self.folder, client_states=self.folder / "clients")
        open_workspace.share(message_config, space)
        grid = InProcessGrid(client_app, problem.clients)
        self.loop = Loop(
            config=self.config,
            space=space,
            algorithm=algorithms.load(self.config),
            clients=Clients.find(Engine(grid, message_config), self.config),
            most_examples=[len(part) for part in problem.targets],
        )
        weights = {"head.weight": torch.zeros(1, problem.dim, dtype=torch.float64)}
        never = torch.zeros(problem.clients, dtype=torch.int64)
        self.state = State(0, weights, "", "", never, self.loop.initial_server_state(weights))

    def run(self, rounds: int) -> list[Vector]:
        """The weights after each of the next rounds."""
        path = []
        with RoundBar(rounds, 0, quiet=True) as bar:
            for server_round in range(self.state.round + 1, self.state.round + 1 + rounds):
                result = self.loop.round(server_round, self.state, bar)
                self.rounds.append(result)
                self.state = result.state
                path.append(self.state.weights["head.weight"].numpy()[0].copy())
        return path
