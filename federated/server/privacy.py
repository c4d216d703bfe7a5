"""Central differential privacy of clients: what the server publishes tells little about who took part, or with what.

Each participant's update is clipped and Gaussian noise is added to their sum (McMahan et al. 2018, "Learning
Differentially Private Recurrent Language Models", algorithm 1). The clipping norm is fixed, or follows a quantile of
the updates' norms (Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping", algorithm 1).

Flower's wrappers are not used for four reasons, seen in 1.41: they add the noise behind the server's optimizer, where
its size no longer fits what one client can change; they draw it from NumPy's global generator, so that no run could be
repeated or resumed; the adaptive one counts the updates above the norm where the paper counts those below, and so moves
away from the quantile; and with their accountant they refuse every strategy but plain averaging and every sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from federated.algorithms.base import Replies, ServerState, Update
from federated.config.run import RunConfig
from federated.weights import Weights
from fps_pretrain.common.keys import numpy_rng

CLIP_RATE = 0.2
"""Step by which the adaptive clipping norm follows the quantile, as in Andrew et al. 2021."""


@cache
def epsilon(releases: int, noise: float, participants: int, clients: int, delta: float) -> float:
    """The epsilon that belongs to ``delta`` after a number of rounds, for one client's updates replaced by zeros.

    With an adaptive norm the client's part of the count of updates below it is replaced by a half (Andrew et al. 2021,
    theorem 1).

    Two bounds hold, and the smaller is given: Gaussian noise without regard to sampling; and Gaussian noise amplified
    by sampling clients without replacement (Wang et al. 2019, "Subsampled Renyi Differential Privacy and Analytical
    Moments Accountant"), which counts a client that takes another's place and so twice the sensitivity.

    Args:
        releases: rounds so far.
        noise: the noise multiplier, relative to the clipping norm.
        participants: clients that are asked in a round.
        clients: clients that there are.
        delta: the probability with which the bound may fail.
    """
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
    from dp_accounting.rdp import RdpAccountant

    if not releases:
        return 0.0
    plain = RdpAccountant()
    plain.compose(GaussianDpEvent(noise), releases)
    bounds = [plain.get_epsilon(delta)]
    if participants < clients:
        sampled = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
        event = SampledWithoutReplacementDpEvent(clients, participants, GaussianDpEvent(noise / 2))
        sampled.compose(event, releases)
        bounds.append(sampled.get_epsilon(delta))
    return float(min(bounds))


def count_noise(noise: float, participants: int) -> float:
    """Standard deviation of the noise on how many updates were below the clipping norm, in updates.

    A twentieth of the participants (Andrew et al. 2021), or, where those are so few that this would
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
    of examples. The noise is a function of (secret, round), so that a resumed run draws the same; the secret stays with
    the server, since whoever knows the noise can subtract it.

    Args:
        noise: the noise multiplier, relative to the clipping norm.
        clip: the clipping norm of the first round.
        quantile: the share of updates that the clipping norm should leave unclipped; None for a fixed norm.
        delta: the probability with which the reported epsilon may fail.
        participants: clients that are asked in a round.
        clients: clients that there are.
        secret: fixes the noise.
    """

    noise: float
    clip: float
    quantile: float | None
    delta: float
    participants: int
    clients: int
    secret: int

    @classmethod
    def of(cls, config: RunConfig, secret: int) -> CentralPrivacy:
        """The privacy that a configuration asks for."""
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
            secret=secret,
        )

    def init(self) -> ServerState:
        """The state before the first round."""
        return self.state_of(self.clip, 0)

    def release(self, state: Mapping[str, Weights], params: Weights, server_round: int) -> Release:
        """What may be published of a round's updates of ``params``."""
        clip, releases = float(state["privacy"]["clip"]), int(state["privacy"]["releases"]) + 1
        return Release(self, params, server_round, clip, releases)

    def add_noise(self, change: Weights, clip: float, server_round: int) -> None:
        """Add a round's noise to the sum's first update, in place."""
        multiplier = self.noise if self.quantile is None else update_noise(self.noise, self.participants)
        rng = numpy_rng(self.secret, "privacy", server_round)
        for tensor in change.values():
            tensor += torch.from_numpy(rng.normal(0.0, multiplier * clip, tuple(tensor.shape)))

    def next_clip(self, clip: float, below: int, count: int, server_round: int) -> float:
        """The clipping norm moved towards the quantile, by a noisy count of the updates below it (Andrew et al.)."""
        if self.quantile is None:
            return clip
        rng = numpy_rng(self.secret, "privacy-count", server_round)
        noise = float(rng.normal(0, count_noise(self.noise, self.participants)))
        return clip * math.exp(-CLIP_RATE * ((below + noise) / count - self.quantile))

    @staticmethod
    def state_of(clip: float, releases: int) -> ServerState:
        """A clipping norm, and how many rounds were published, as the server remembers them."""
        return {"privacy": {"clip": torch.tensor(clip, dtype=torch.float64), "releases": torch.tensor(releases)}}


def clip_(update: Mapping[str, Tensor], norm: float) -> float:
    """Scale an update's tensors, together, down to an L2 norm, in place, if theirs is larger; returns what it was."""
    found = math.sqrt(sum(float(tensor.pow(2).sum()) for tensor in update.values()))
    if found > norm:
        for tensor in update.values():
            tensor *= norm / found
    return found


@dataclass
class Release:
    """What may be published of a round's updates: clipped, with the noise of their sum in the first.

    Args:
        privacy: how they are clipped and noised.
        params: what they are updates of.
        server_round: the round, which fixes the noise.
        clip: this round's clipping norm.
        releases: rounds that are published with this one.
    """

    privacy: CentralPrivacy
    params: Weights
    server_round: int
    clip: float
    releases: int
    _below: int = 0
    _count: int = 0

    def of(self, replies: Replies) -> Replies:
        """The updates as they may be published, one by one; all count the same."""
        return Replies(self._updates(replies), [1] * len(replies.expected_examples))

    def _updates(self, updates: Iterable[Update]) -> Iterator[Update]:
        for update in updates:
            change = {name: tensor.double() - self.params[name].double() for name, tensor in update.weights.items()}
            self._below += clip_(change, self.clip) <= self.clip
            if self._count == 0:
                self.privacy.add_noise(change, self.clip, self.server_round)
            self._count += 1
            weights = {name: (tensor.double() + change[name]).to(tensor.dtype) for name, tensor in self.params.items()}
            yield update._replace(weights=weights, num_examples=1)

    def state(self) -> ServerState:
        """The clipping norm of the next round and how many rounds were published; once all updates are through."""
        clip = self.privacy.next_clip(self.clip, self._below, self._count, self.server_round)
        return self.privacy.state_of(clip, self.releases)

    def metrics(self) -> dict[str, float]:
        """``dp_epsilon``, spent so far, and ``dp_clip``, this round's clipping norm."""
        private = self.privacy
        spent = epsilon(self.releases, private.noise, private.participants, private.clients, private.delta)
        return {"dp_epsilon": spent, "dp_clip": self.clip}
