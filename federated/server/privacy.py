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
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from federated.config.run import RunConfig
from federated.messages import from_record
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import numpy_rng

CLIP_RATE = 0.2
"""Step by which the adaptive clipping norm follows the quantile, as in Andrew et al. 2021."""


def check_installed() -> None:
    """Refuse differential privacy where its accountant is not installed.

    Raises:
        UserError: there is no dp-accounting.
    """
    try:
        import dp_accounting  # noqa: F401
    except ImportError as error:
        raise UserError("--dp needs dp-accounting: pip install 'fps-federated[dp]'") from error


@cache
def epsilon(releases: int, noise: float, participants: int, clients: int, delta: float) -> float:
    """The epsilon that belongs to ``delta`` after a number of rounds, for one client's updates replaced by zeros.

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
    """Standard deviation of the noise on how many updates were below the clipping norm.

    A twentieth of the participants (Andrew et al. 2021), or, where those are so few that this would
    leave hardly any privacy for the updates, as much as the noise multiplier.
    """
    return max(participants / 20, noise)


def update_noise(noise: float, participants: int) -> float:
    """The noise multiplier of the updates that, beside ``count_noise``, costs as much privacy as ``noise`` alone.

    Andrew et al. 2021, theorem 1.
    """
    return (noise**-2 - (2 * count_noise(noise, participants)) ** -2) ** -0.5


class CentralPrivacy(Strategy):
    """Clips and noises the replies before a strategy combines them: what it makes of them costs no further privacy.

    The strategy must depend on the replies through their mean alone. They all count the same, whatever their numbers
    of examples, and the noise of their sum is put into the first. It is a function of (seed, round): a resumed run has
    the same, and so has everybody who knows the seed.

    Args:
        strategy: combines parameters, by their mean.
        config: the run.
    """

    def __init__(self, strategy: Strategy, config: RunConfig) -> None:
        assert config.dp_noise is not None
        assert config.dp_clip is not None
        assert config.dp_delta is not None
        self.strategy = strategy
        self.seed = config.seed
        self.quantile = config.dp_quantile
        self.noise, self.delta = config.dp_noise, config.dp_delta
        self.participants, self.clients = config.participants, config.clients
        self.clip = config.dp_clip
        self.releases = 0
        self._start: dict[str, Tensor] = {}

    def summary(self) -> None:
        """Log the strategy's settings."""
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the strategy does."""
        self._start = from_record(arrays)
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the strategy makes of clipped and noised replies; metrics get ``dp_epsilon`` and ``dp_clip``."""
        replies = list(replies)
        clip, below = self.clip, 0
        for number, reply in enumerate(replies):
            update = from_record(reply.content.array_records["arrays"])
            for name, start in self._start.items():
                update[name] = update[name].double() - start.double()
            below += clip_(update, clip) <= clip
            if number == 0:
                self._add_noise(update, server_round)
            weights = {name: (start.double() + update[name]).to(start.dtype) for name, start in self._start.items()}
            reply.content["arrays"] = ArrayRecord(weights)
            reply.content.metric_records["metrics"]["num-examples"] = 1
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        if not arrays:
            return arrays, metrics
        self.releases += 1
        if self.quantile is not None:
            self._follow_quantile(below, len(replies), server_round)
        spent = epsilon(self.releases, self.noise, self.participants, self.clients, self.delta)
        return arrays, MetricRecord({**(metrics or {}), "dp_epsilon": spent, "dp_clip": clip})

    def _add_noise(self, update: dict[str, Tensor], server_round: int) -> None:
        multiplier = self.noise if self.quantile is None else update_noise(self.noise, self.participants)
        rng = numpy_rng(self.seed, "privacy", server_round)
        for tensor in update.values():
            tensor += torch.from_numpy(rng.normal(0.0, multiplier * self.clip, tuple(tensor.shape)))

    def _follow_quantile(self, below: int, count: int, server_round: int) -> None:
        assert self.quantile is not None
        noise = numpy_rng(self.seed, "privacy-count", server_round).normal(
            0, count_noise(self.noise, self.participants)
        )
        self.clip *= math.exp(-CLIP_RATE * ((below + float(noise)) / count - self.quantile))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the strategy does."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the strategy does."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The clipping norm and how many rounds were published."""
        clip = torch.tensor(self.clip, dtype=torch.float64)
        return {"privacy": {"clip": clip, "releases": torch.tensor(self.releases)}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from what ``state_dict`` returned; at the beginning of a run there is nothing."""
        if "privacy" in state:
            self.clip = float(state["privacy"]["clip"])
            self.releases = int(state["privacy"]["releases"])


def clip_(update: Mapping[str, Tensor], norm: float) -> float:
    """Scale an update's tensors, together, down to an L2 norm, in place, if theirs is larger; returns what it was."""
    found = math.sqrt(sum(float(tensor.pow(2).sum()) for tensor in update.values()))
    if found > norm:
        for tensor in update.values():
            tensor *= norm / found
    return found
