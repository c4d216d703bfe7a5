"""What a federated algorithm is made of: pure functions over dicts of tensors, and the types they take and give.

A file of this package is an algorithm of that name, chosen with ``--strategy NAME``. It defines:

    class Options(AlgorithmOptions)                     its options, with defaults and ranges, and a few facts
    train_client(client, weights) -> ClientUpdate       what a client does in a round
    init(params, setting) -> state                      what the server remembers before the first round
    combine(state, params, replies, setting) -> Combined     what the server makes of the replies

and, where it needs them, the names of what travels beside weights:

    SENT = ("control",)       entries of the server's state that go to the clients with the weights
    RECEIVED = ("control",)   state dicts, shaped like the parameters, that clients send beside their weights
    METRICS = ("steps",)      numbers, none below 0, that clients report beside the loss and accuracy of their training
    CARRIED = ("m_t",)        attributes that one of Flower's strategies hands from round to round

An algorithm knows nothing of messages, records, engines, folders, sampling, order, privacy or failures: all of that
stands around it, once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from federated.client.parts import size_of
from federated.client.training import Client, ClientHyperparameters, ClientUpdate
from federated.weights import Weights

ServerState = dict[str, Weights]
"""What a server step remembers from round to round, such as momenta: state dicts by name."""


class Update(NamedTuple):
    """A client's reply, decoded and checked.

    Attributes:
        weights: the parameters after local training, in the model's order; for a robust algorithm the floating point
            buffers, too.
        num_examples: how many training examples stand behind them, at least 1.
        metrics: ``train_loss``, ``train_accuracy`` and the algorithm's ``METRICS``.
        extra: the algorithm's ``RECEIVED`` state dicts.
    """

    weights: Weights
    num_examples: int
    metrics: dict[str, float]
    extra: Mapping[str, Weights] = {}


@dataclass(frozen=True)
class Replies:
    """The replies of a round, in client order. They can be gone through once, while they arrive.

    An algorithm that adds them up one by one (``averaging.Mean``) needs memory for one; ``list(replies)`` holds all.

    Attributes:
        updates: what the clients sent; those that fail are left out.
        expected_examples: how many training examples each client has that was asked, whether it answers or not.
    """

    updates: Iterable[Update]
    expected_examples: Sequence[int]

    def __iter__(self) -> Iterator[Update]:
        return iter(self.updates)

    @classmethod
    def of(cls, updates: Sequence[Update]) -> Replies:
        """Replies that are all there."""
        return cls(updates, [update.num_examples for update in updates])


@dataclass(frozen=True)
class Setting:
    """What a server step is told of the run and the round.

    Attributes:
        options: the algorithm's options.
        num_clients: all clients there are.
        participants: how many clients are asked in a round.
        client_lr: the learning rate of local SGD, ``--lr``.
        server_round: the round, from 1; 0 for ``init``.
        hyper: the hyper-parameters of local SGD in the round; None for ``init``.
    """

    options: Any
    num_clients: int
    participants: int
    client_lr: float
    server_round: int = 0
    hyper: ClientHyperparameters | None = None


class Combined(NamedTuple):
    """What a server step makes of a round.

    Attributes:
        params: the next parameters, named like those it was given.
        state: what it remembers.
        metrics: the clients' metrics as the algorithm averages them; None for their mean, weighted by examples.
    """

    params: Weights
    state: ServerState
    metrics: dict[str, float] | None = None


@dataclass(frozen=True)
class Algorithm:
    """An algorithm as the rest of the program sees it; see the module's docstring for the parts."""

    name: str
    options: Any
    train_client: Callable[[Client, Mapping[str, Any]], ClientUpdate]
    init: Callable[[Weights, Setting], ServerState]
    combine: Callable[[ServerState, Weights, Replies, Setting], Combined]
    sent: tuple[str, ...] = ()
    received: tuple[str, ...] = ()
    metrics: tuple[str, ...] = field(default=())
    carried: tuple[str, ...] = ()

    def message_sizes(
        self, shared: Weights, parameters: Collection[str], *, buffers_back: bool = True
    ) -> tuple[int, int]:
        """Bytes of what a client receives, and of what it sends, in a round.

        Args:
            shared: the part of the model that travels.
            parameters: which of it the state dicts beside it are shaped like: all but the buffers.
            buffers_back: whether clients send buffers; with ``--bn-stats server`` they only receive them.
        """
        model, beside = size_of(shared), size_of({name: shared[name] for name in parameters})
        back = model if buffers_back else beside
        return model + len(self.sent) * beside, back + len(self.received) * beside

    def remembered(self, params: Weights, setting: Setting) -> ServerState:
        """What the server remembers after a round: names, shapes and types are those of every round."""
        state = self.init(params, setting)
        return (
            self.combine(state, params, Replies.of([Update(params, 1, {})]), setting).state if self.carried else state
        )


def no_state(params: Weights, setting: Setting) -> ServerState:
    """``init`` of a server step that remembers nothing."""
    return {}
