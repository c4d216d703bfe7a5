"""Sending messages to clients and waiting for their replies, over any of Flower's grids."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from torch import Tensor

from federated.client.failures import DISK_FAILED, HANG_GRACE
from federated.config.run import RunConfig
from federated.engines.start import Engine
from federated.messages import FIXED, copy_of, to_record
from federated.server.output.progress import log
from federated.server.replies import details_of, reason_of
from fps_pretrain.common.errors import DIVERGES_AGAIN, EXIT_FAILED, RESUMABLE, UserError
from fps_pretrain.models.checksum import digest

NO_ANSWER = "gave no answer in time"

Arrived = Callable[[int, int], None]
"""Called with how many replies have arrived, and of how many."""


class RunFailed(UserError):
    """A round could not be completed; the run can be resumed from the round before."""

    exit_code = EXIT_FAILED
    advice = RESUMABLE


class Diverged(RunFailed):
    """A round could not be completed since training diverges, which it does again when it is resumed."""

    advice = DIVERGES_AGAIN


@dataclass(frozen=True)
class Fixed:
    """The part of the model that does not change, which clients get beside what does.

    On the engines of this project it lies beside every message: in the same process, in a pipe, or once a machine in
    Ray's object store. Nodes elsewhere keep it, and get it until they have answered a message without an error.

    Attributes:
        record: the part.
        digest: which one it is.
        once: whether nodes keep it.
        holders: the clients whose nodes have it.
    """

    record: ArrayRecord
    digest: str
    once: bool
    holders: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], *, once: bool) -> Fixed:
        """The part with these tensors."""
        return cls(to_record(weights), digest(weights)[:16], once)

    def add_to(self, content: RecordDict, client: int) -> None:
        """Put it into a client's message, or only its name if the client has it."""
        if self.once:
            content["config"] = ConfigRecord({**content.config_records["config"], "fixed-once": self.digest})
        if client not in self.holders:
            content[FIXED] = copy_of(self.record)
        self.holders.discard(client)  # until it has answered

    def note(self, client: int, reply: Message) -> None:
        """Note whether a client that answers has it now."""
        if self.once and not reply.has_error():
            self.holders.add(client)


@dataclass(frozen=True)
class Clients:
    """The clients of a run: each is a partition, at a node of the engine.

    Attributes:
        engine: what trains them.
        node_of: the node that holds each partition, in order.
        client_timeout: seconds a client has for a message, or None for no limit.
        fixed: what goes with the weights to be trained or evaluated, if there is something.
    """

    engine: Engine
    node_of: tuple[int, ...]
    client_timeout: float | None = None
    fixed: Fixed | None = None

    @classmethod
    def find(cls, engine: Engine, config: RunConfig) -> Clients:
        """Ask the nodes which partition each holds: node ids are random, and runs must not depend on them.

        Nodes elsewhere have ``--node-timeout`` for their first answer, or, if that is given, ``--client-timeout``.

        Raises:
            RunFailed: a node does not answer, or the nodes do not hold one partition each.
        """
        nodes = tuple(engine.grid.get_node_ids())
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        clients = cls(engine, nodes, config.client_timeout)
        patience = clients.patience
        if patience is None and engine.remote:
            patience = config.node_timeout
        answers = {reply.metadata.src_node_id: reply for reply in clients.exchange(queries, patience)}
        partitions: dict[int, int] = {}
        for node in nodes:
            answer = answers.get(node)
            if answer is None or answer.has_error():
                reason = NO_ANSWER if answer is None else _reason(answer)
                raise RunFailed(f"node {node} does not answer: {reason}")
            partitions[node] = _partition_of(node, answer)
        if sorted(partitions.values()) != list(range(config.clients)):
            raise RunFailed(f"the nodes hold partitions {sorted(partitions.values())}, not one for each client")
        return replace(clients, node_of=tuple(sorted(partitions, key=lambda node: partitions[node])))

    def with_fixed(self, weights: Mapping[str, Tensor]) -> Clients:
        """These clients, who get the part of the model in ``weights``, which may be empty, beside what changes."""
        return replace(self, fixed=Fixed.of(weights, once=self.engine.remote) if weights else None)

    def __len__(self) -> int:
        return len(self.node_of)

    @property
    def patience(self) -> float | None:
        """Seconds to wait for clients, or None where there is no limit or the engine ends those that hang."""
        return self.client_timeout + HANG_GRACE if self.client_timeout is not None and self.engine.remote else None

    def exchange(
        self, messages: list[Message], patience: float | None = None, arrived: Arrived | None = None
    ) -> Iterator[Message]:
        """Send messages; the replies as they arrive, error replies among them, for ``patience`` seconds at most."""
        end = math.inf if patience is None else time.monotonic() + patience
        pending = set(self.engine.grid.push_messages(messages)) if messages else set()
        done = 0
        while pending and time.monotonic() < end:
            new = list(self.engine.grid.pull_messages(pending))
            pending -= {reply.metadata.reply_to_message_id for reply in new}
            if not new:
                time.sleep(0.05)
                continue
            done += len(new)
            if arrived:
                arrived(done, len(messages))
            yield from new

    def send(
        self,
        message_type: str,
        clients: list[int],
        arrays: Mapping[str, Mapping[str, Tensor]],
        told: Mapping[int, Mapping[str, Any]],
        *,
        group: str = "",
        patience: float | None = None,
        arrived: Arrived | None = None,
    ) -> Iterator[tuple[int, Message | None]]:
        """Send clients the same arrays; each with its reply, in the order of ``clients``, or None if there is none.

        A client of this machine whose disk is full ends the run: without it the result would be another.

        A reply is handed on as soon as those of all clients before it have been, and is held until then only. The
        arrays are turned into bytes once; every message gets records of its own over the same bytes, since a client in
        this process must not see what another does to its record.

        Args:
            message_type: Flower's type, such as ``train`` or ``query.labels``.
            clients: whom to ask.
            arrays: state dicts by the names of their records.
            told: what to tell each client beside the engine's configuration.
            group: the messages' group, by which logs tell rounds apart.
            patience: seconds to wait, None for ever.
            arrived: see ``Arrived``.

        Raises:
            RunFailed: a client of this machine cannot write what it must remember.
        """
        records = {name: to_record(weights) for name, weights in arrays.items()}
        fixed = self.fixed if message_type in (MessageType.TRAIN, MessageType.EVALUATE) else None
        messages = []
        for client in clients:
            content = RecordDict({name: copy_of(record) for name, record in records.items()})
            content["config"] = ConfigRecord({**self.engine.message_config, **told[client]})
            if fixed:
                fixed.add_to(content, client)
            messages.append(Message(content, self.node_of[client], message_type, group_id=group))
        client_of = {node: client for client, node in enumerate(self.node_of)}
        early: dict[int, Message] = {}
        following = deque(clients)
        for reply in self.exchange(messages, patience, arrived):
            client = client_of[reply.metadata.src_node_id]
            if reply.has_error() and reply.error.code == DISK_FAILED and not self.engine.remote:
                raise RunFailed(f"client {client} cannot write what it must remember: {_reason(reply)}")
            early[client] = reply
            if fixed:
                fixed.note(client, reply)
            while following and following[0] in early:
                yield following[0], early.pop(following.popleft())
        for client in following:
            yield client, early.pop(client, None)

    def ask(
        self,
        message_type: str,
        arrays: Mapping[str, Mapping[str, Tensor]],
        told: Mapping[int, Mapping[str, Any]],
        arrived: Arrived | None = None,
    ) -> tuple[dict[int, RecordDict], dict[int, str]]:
        """What all clients answer, and why others do not, both in client order."""
        everybody = list(range(len(self)))
        answers, failures = {}, {}
        for client, reply in self.send(message_type, everybody, arrays, told, patience=self.patience, arrived=arrived):
            if reply is None:
                failures[client] = NO_ANSWER
            elif reply.has_error():
                failures[client] = _reason(reply)
            else:
                answers[client] = reply.content
        return answers, failures


def _partition_of(node: int, answer: Message) -> int:
    value = answer.content.config_records.get("node", ConfigRecord()).get("partition-id")
    if isinstance(value, bool) or not isinstance(value, int):
        raise RunFailed(f"node {node} does not say which partition it holds")
    return value


def _reason(reply: Message) -> str:
    log.debug(details_of(reply))
    return reason_of(reply)
