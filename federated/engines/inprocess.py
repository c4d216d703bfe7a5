"""Flower's apps in this process: a ``Grid`` that hands each message to a ClientApp, one after the other.

No Ray, no network, no threads. A message is worked on when its reply is pulled, one message a pull, so that the round
loop can show how far a round is. This module alone touches Flower's private ``TaskIdentity``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federated.client.failures import CLIENT_FAILED

RUN_ID = 1
SERVER_NODE_ID = 1
"""As in Flower, the server side is node 1; client nodes follow."""


class InProcessGrid(Grid):
    """A grid of ``num_clients`` nodes; the node with id ``2 + p`` holds partition ``p``.

    Args:
        client_app: handles every message.
        num_clients: number of nodes.
    """

    def __init__(self, client_app: ClientApp, num_clients: int) -> None:
        self._client_app = client_app
        self._contexts = {
            SERVER_NODE_ID + 1 + partition: Context(
                run_id=RUN_ID,
                node_id=SERVER_NODE_ID + 1 + partition,
                node_config={"partition-id": partition},
                state=RecordDict(),
                run_config={},
            )
            for partition in range(num_clients)
        }
        self._pending: dict[str, Message] = {}
        self._run = Run.create_empty(RUN_ID)
        # Message() reads who it is made by from here.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, SERVER_NODE_ID

    def set_run(self, run: Run) -> None:
        """Set the run that ``run`` tells of; messages do not depend on it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message of this run to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The ids of all nodes, in the order of their partitions."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages until their replies are pulled; returns their ids."""
        identifiers = []
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self._pending[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply to the first pushed of the messages, if any waits; an exception becomes an error reply."""
        wanted = message_ids if isinstance(message_ids, set) else set(message_ids)
        identifier = next((pushed for pushed in self._pending if pushed in wanted), None)
        return [] if identifier is None else [self.handle(self._pending.pop(identifier))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies to all messages, in their order; nothing here can be late, so ``timeout`` changes nothing."""
        identifiers = list(self.push_messages(messages))
        return [reply for identifier in identifiers for reply in self.pull_messages([identifier])]

    def handle(self, message: Message) -> Message:
        """The ClientApp's reply to a message; an exception becomes an error reply."""
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._client_app(message, context)
        except Exception:
            return Message(Error(CLIENT_FAILED, traceback.format_exc()), reply_to=message)
