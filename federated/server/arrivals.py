"""The replies of a round as they arrive: each is decoded and checked once, handed on, and not kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from flwr.app import Message

from federated.algorithms.averaging import Mean, lower_median
from federated.algorithms.base import Update, Weights
from federated.server.exchange import NO_ANSWER
from federated.server.output.progress import log
from federated.server.replies import BadReply, DivergedReply, Expected, details_of


class Arrivals:
    """What a round's replies come to beside what an algorithm makes of them; known once ``updates`` has ended.

    Args:
        server_round: the round, for the log.
        expected: what a reply must hold.
        participants: the clients that were asked, in order.
        asked: how many training examples each of them has.
        combined: the names that the algorithm combines. What else a reply holds are buffers.
        robust: whether a minority of liars must not move the buffers at will.
        keep_models: whether the clients' models are wanted afterwards.

    Attributes:
        reports: what the clients reported, without weights, in client order.
        failures: those that are left out, with the reason, in client order.
        diverged: those of them whose training diverged.
        models: the clients' models, if they are wanted.
    """

    def __init__(
        self,
        server_round: int,
        expected: Expected,
        participants: Sequence[int],
        asked: Sequence[int],
        combined: Collection[str],
        *,
        robust: bool,
        keep_models: bool,
    ) -> None:
        self.reports: dict[int, Update] = {}
        self.failures: dict[int, str] = {}
        self.diverged: set[int] = set()
        self.models: list[Weights] = []
        self._server_round, self._expected = server_round, expected
        self._asked = dict(zip(participants, asked, strict=True))
        self._combined, self._robust, self._keep_models = combined, robust, keep_models
        self._mean = Mean(asked)
        self._all_buffers: list[Weights] = []

    def updates(self, replies: Iterable[tuple[int, Message | None]]) -> Iterator[Update]:
        """The replies that can be used, with the weights that the algorithm combines; the log has why others cannot.

        Args:
            replies: the clients that were asked, in order, each with its reply if there is one.
        """
        for client, reply in replies:
            try:
                update = self._read(client, reply)
            except BadReply as bad:
                self._leave_out(client, reply, bad)
                continue
            self.reports[client] = update._replace(weights={}, extra={})
            if self._keep_models:
                self.models.append(update.weights)
            buffers = {name: tensor for name, tensor in update.weights.items() if name not in self._combined}
            if self._robust:
                self._all_buffers.append(buffers)
            else:
                self._mean.add(buffers, update.num_examples)
            yield update._replace(weights={name: update.weights[name] for name in self._combined})

    def buffers(self) -> Weights:
        """BatchNorm's buffers after the round: the clients' mean by examples, or of a robust algorithm the median."""
        return lower_median(self._all_buffers) if self._robust else self._mean.result()

    def _read(self, client: int, reply: Message | None) -> Update:
        if reply is None:
            raise BadReply(NO_ANSWER)
        return self._expected.read(reply, self._asked[client])

    def _leave_out(self, client: int, reply: Message | None, bad: BadReply) -> None:
        self.failures[client] = str(bad)
        if isinstance(bad, DivergedReply):
            self.diverged.add(client)
        log.info(f"round {self._server_round}: client {client} is left out: {bad}")
        if reply is not None and reply.has_error():
            log.debug(details_of(reply))
