"""Central differential privacy of clients: what the server publishes tells little about who took part, or with what.

Each client is drawn by itself, its update is clipped, Gaussian noise is added to the sum of the updates, and the sum is
divided by the number of clients that was to be expected (McMahan et al. 2018, "Learning Differentially Private
Recurrent Language Models", algorithm 1, with its estimator f_f). So one client more or less changes one term of the sum
and nothing else. The clipping norm is fixed, or follows a quantile of the updates' norms (Andrew et al. 2021,
"Differentially Private Learning with Adaptive Clipping", algorithm 1).

Flower's wrappers are not used for four reasons, seen in 1.41: they add the noise behind the server's optimizer, where
its size no longer fits what one client can change; they draw it from NumPy's global generator, so that no run could be
repeated or resumed; the adaptive one counts the updates above the norm where the paper counts those below, and so moves
away from the quantile; and with their accountant they refuse every strategy but plain averaging and every sampling.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from federated.algorithms.averaging import Sum
from federated.algorithms.base import Replies, ServerState, Update
from federated.config.run import RunConfig
from federated.server.cohort import sample_each_client
from federated.weights import Weights
from fps_pretrain.common.keys import secret_rng

CLIP_RATE = 0.2
"""Step by which the adaptive clipping norm follows the quantile, as in Andrew et al. 2021."""


@cache
def epsilon(rounds: int, noise: float, probability: float, delta: float) -> float:
    """The epsilon that belongs to ``delta`` after a number of rounds, for one client more or less.

    Gaussian noise, amplified by drawing each client by itself (Mironov, Talwar and Zhang 2019, "Renyi Differential
    Privacy of the Sampled Gaussian Mechanism").

    Args:
        rounds: rounds so far.
        noise: the noise multiplier, relative to the clipping norm.
        probability: with which a client takes part in a round.
        delta: the probability with which the bound may fail.
    """
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    if not rounds:
        return 0.0
    accountant, event = RdpAccountant(), GaussianDpEvent(noise)
    with _quiet_accountant():
        accountant.compose(PoissonSampledDpEvent(probability, event) if probability < 1 else event, rounds)
    return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet_accountant() -> Iterator[None]:
    """Drop its warnings, one for each Renyi order that it leaves out; the bound holds with those that are left."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def count_noise(noise: float, participants: int) -> float:
    """Standard deviation of the noise on how many updates were below the clipping norm, in updates.

    A twentieth of the participants to be expected (Andrew et al. 2021), or, where those are so few that this would
    leave hardly any privacy for the updates, as much as the noise multiplier.
    """
    return max(participants / 20, noise)


def update_noise(noise: float, participants: int) -> float:
    """The noise multiplier of the updates that, beside ``count_noise``, costs as much privacy as ``noise`` alone.

    Both are in units of the clipping norm (Andrew et al. 2021, theorem 1).
    """
    return (noise**-2 - (2 * count_noise(noise, participants)) ** -2) ** -0.5


@dataclass(frozen=True)
class CentralPrivacy:
    """Clips and noises the replies before an algorithm combines them: what it makes of them costs no further privacy.

    The algorithm must depend on the replies through their mean alone. They all count the same, whatever their numbers
    of examples. Noise and participants are functions of (key, round), so that a resumed run draws the same; the key
    stays with the server, since whoever knows the noise can subtract it.

    Args:
        noise: the noise multiplier, relative to the clipping norm.
        clip: the clipping norm of the first round.
        quantile: the share of updates that the clipping norm should leave unclipped; None for a fixed norm.
        delta: the probability with which the reported epsilon may fail.
        participants: how many clients are to be expected in a round.
        clients: clients that there are.
        key: fixes the noise, and who takes part.
    """

    noise: float
    clip: float
    quantile: float | None
    delta: float
    participants: int
    clients: int
    key: int

    @classmethod
    def of(cls, config: RunConfig, secret: int, run: str) -> CentralPrivacy:
        """The privacy that a configuration asks for.

        Args:
            config: the run.
            secret: what only the server knows.
            run: which run it is. Two runs with one secret would otherwise have the same noise, and who has both models
                could subtract it.
        """
        assert config.dp_noise is not None
        assert config.dp_clip is not None
        assert config.dp_delta is not None
        return cls(
            noise=config.dp_noise,
            clip=config.dp_clip,
            quantile=config.dp_quantile,
            delta=config.dp_delta,
            participants=config.participants,
            clients=config.clients,
            key=int.from_bytes(hashlib.sha256(f"{secret} {run}".encode()).digest()[:16]),
        )

    @property
    def probability(self) -> float:
        """With which a client takes part in a round."""
        return self.participants / self.clients

    def sample_clients(self, server_round: int) -> list[int]:
        """Who takes part in a round: each client by itself, so that nobody's part depends on another's."""
        return sample_each_client(self.key, server_round, self.clients, self.probability)

    def init(self) -> ServerState:
        """The state before the first round."""
        return self.state_of(self.clip, 0)

    def release(self, state: Mapping[str, Weights], params: Weights, server_round: int) -> Release:
        """What may be published of a round's updates of ``params``."""
        clip, rounds = float(state["privacy"]["clip"]), int(state["privacy"]["rounds"]) + 1
        return Release(self, params, server_round, clip, rounds)

    def add_noise(self, change: Weights, clip: float, server_round: int) -> None:
        """Add a round's noise to the sum of the updates, in place."""
        multiplier = self.noise if self.quantile is None else update_noise(self.noise, self.participants)
        rng = secret_rng(self.key, "privacy", server_round)
        for tensor in change.values():
            tensor += torch.from_numpy(rng.normal(0.0, multiplier * clip, tuple(tensor.shape)))

    def next_clip(self, clip: float, below: int, count: int, server_round: int) -> float:
        """The clipping norm moved towards the quantile, by a noisy count of the updates below it (Andrew et al.).

        An update counts as plus or minus a half, one that is not there as 0 (theorem 1).
        """
        if self.quantile is None:
            return clip
        rng = secret_rng(self.key, "privacy-count", server_round)
        noise = float(rng.normal(0, count_noise(self.noise, self.participants)))
        share = 0.5 + (below - count / 2 + noise) / self.participants
        return clip * math.exp(-CLIP_RATE * (share - self.quantile))

    @staticmethod
    def state_of(clip: float, rounds: int) -> ServerState:
        """A clipping norm, and how many rounds were published, as the server remembers them."""
        return {"privacy": {"clip": torch.tensor(clip, dtype=torch.float64), "rounds": torch.tensor(rounds)}}


def clip_(update: Mapping[str, Tensor], norm: float) -> float:
    """Scale an update's tensors, together, down to an L2 norm, in place, if theirs is larger; returns what it was."""
    found = math.sqrt(sum(float(tensor.pow(2).sum()) for tensor in update.values()))
    if found > norm:
        for tensor in update.values():
            tensor *= norm / found
    return found


@dataclass
class Release:
    """What may be published of a round's updates: their noisy mean, clipped, as if as many had come as was expected.

    Args:
        privacy: how they are clipped and noised.
        params: what they are updates of.
        server_round: the round, which fixes the noise.
        clip: this round's clipping norm.
        rounds: rounds that are published with this one.
    """

    privacy: CentralPrivacy
    params: Weights
    server_round: int
    clip: float
    rounds: int
    _below: int = 0
    _count: int = 0

    def of(self, replies: Replies) -> Replies:
        """One update in the place of all: the noisy sum of the clipped ones over the number that was expected."""
        return Replies(self._published(replies), [1])

    def _published(self, updates: Iterable[Update]) -> Iterator[Update]:
        start = {name: tensor.double() for name, tensor in self.params.items()}
        noise = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        self.privacy.add_noise(noise, self.clip, self.server_round)
        total = Sum()
        total.add(noise, 1)
        for update in updates:
            change = {name: tensor.double() - start[name] for name, tensor in update.weights.items()}
            self._below += clip_(change, self.clip) <= self.clip
            self._count += 1
            total.add(change, 1)
        mean = total.result(1 / self.privacy.participants)
        yield Update({name: (start[name] + mean[name]).to(old.dtype) for name, old in self.params.items()}, 1, {})

    def state(self) -> ServerState:
        """The clipping norm of the next round and how many rounds were published; once all updates are through."""
        clip = self.privacy.next_clip(self.clip, self._below, self._count, self.server_round)
        return self.privacy.state_of(clip, self.rounds)

    def metrics(self) -> dict[str, float]:
        """``dp_epsilon``, spent so far, and ``dp_clip``, this round's clipping norm."""
        private = self.privacy
        spent = epsilon(self.rounds, private.noise, private.probability, private.delta)
        return {"dp_epsilon": spent, "dp_clip": self.clip}
