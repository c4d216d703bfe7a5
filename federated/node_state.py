"""What a client remembers in Flower's ``context.state``: for nodes that have no folder for it.

Flower keeps it in the node's memory, from message to message of a run. It is lost when the node is started again.
"""

from __future__ import annotations

from typing import Protocol

from flwr.app import ConfigRecord, RecordDict

from federated.client.training import ClientState
from federated.messages import from_record, to_record
from fps_pretrain.common.errors import UserError

ROUNDS = "client-state"
"""Name of the record that lists the rounds whose states are held."""


class States(Protocol):
    """Where a client remembers things from round to round: ``ClientStates`` in files, ``NodeState`` in memory."""

    def take(self, client: int, server_round: int) -> ClientState:
        """The client's state after a round, which is committed; all other versions are removed."""

    def load(self, client: int, server_round: int) -> ClientState:
        """The client's state after a round; empty for round 0."""

    def save(self, client: int, server_round: int, state: ClientState) -> None:
        """Keep the client's state after a round beside the one before."""


class NodeState:
    """The states of a node's one client, in a record for each round and state dict.

    Args:
        records: the node's ``context.state``.
    """

    def __init__(self, records: RecordDict) -> None:
        self._records = records

    def take(self, client: int, server_round: int) -> ClientState:
        """The client's state after a round, which is committed; all other versions are removed.

        Raises:
            UserError: the node does not have it.
        """
        state = self.load(client, server_round)
        for name in [name for name in self._records if name.startswith(f"{ROUNDS}/")]:
            if not name.startswith(_prefix(server_round)):
                del self._records[name]
        self._records[ROUNDS] = ConfigRecord({"rounds": [server_round] if server_round else []})
        return state

    def load(self, client: int, server_round: int) -> ClientState:
        """The client's state after a round; empty for round 0.

        Raises:
            UserError: the node does not have it.
        """
        if not server_round:
            return {}
        if server_round not in self._rounds():
            raise UserError(
                f"this node does not remember round {server_round}: it was started again, or the run was; start nodes "
                'with state-dir="FOLDER" in their --node-config to keep what clients remember'
            )
        prefix = _prefix(server_round)
        records = self._records.array_records
        return {name.removeprefix(prefix): from_record(records[name]) for name in records if name.startswith(prefix)}

    def save(self, client: int, server_round: int, state: ClientState) -> None:
        """Keep the client's state after a round beside the one before."""
        for name, weights in state.items():
            self._records[f"{_prefix(server_round)}{name}"] = to_record(weights)
        self._records[ROUNDS] = ConfigRecord({"rounds": sorted({*self._rounds(), server_round})})

    def _rounds(self) -> list[int]:
        return list(self._records.config_records.get(ROUNDS, ConfigRecord()).get("rounds", []))  # type: ignore[arg-type]


def _prefix(server_round: int) -> str:
    return f"{ROUNDS}/{server_round}/"
