"""What clients remember from round to round: one small file for each client and round, none of it in memory.

A client that is told to train from its state of round 7 reads that version, removes every other, and writes the
version of the current round. The server commits a version by saving the round in which it was made. Until then the
version before is still there, so that a run that is killed at any moment resumes from states of one round, and a
client whose reply was dropped resumes from the state of its last reply that counted.

A file says whose it is, after which round and of which run, and has a checksum over all of this: one that was changed,
or that belongs to another client, round or run, is not believed.
"""

from __future__ import annotations

from pathlib import Path

from federated.client.training import ClientState
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_bytes_atomically
from fps_pretrain.models.checksum import KEY, with_checksum
from fps_pretrain.models.tensor_file import read_with_checksum, write_atomically

WHOSE = "whose"
"""The entry of a file that names its run, client and round."""


class ClientStates:
    """The states of clients in a folder, ``<client>/<round>.pt``.

    Args:
        folder: made when the first state is written.
        run: which run this is, see ``State.run``; empty for one that began before files said whose they are.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run

    def load(self, client: int, server_round: int) -> ClientState:
        """A client's state after ``server_round``; empty for round 0, before the first.

        Raises:
            UserError: the file is missing, damaged, or that of another client, round or run.
        """
        if not server_round:
            return {}
        path = self._path(client, server_round)
        content = read_with_checksum(path)
        content.pop(KEY, None)
        if content.pop(WHOSE, None) != self._whose(client, server_round) and self.run:
            raise UserError(f"{path} is not what client {client} kept after round {server_round} of this run")
        return content

    def take(self, client: int, server_round: int) -> ClientState:
        """As ``load``, at the start of a round: ``server_round`` is committed, all other versions are removed."""
        state = self.load(client, server_round)  # first: where it is damaged, nothing is removed
        self.keep(client, server_round)
        return state

    def keep(self, client: int, server_round: int) -> None:
        """Remove all versions of a client's state but the one after ``server_round``."""
        current = self._path(client, server_round)
        for path in current.parent.iterdir() if current.parent.exists() else ():
            if path != current:  # also what an interrupted write left
                path.unlink(missing_ok=True)

    def save(self, client: int, server_round: int, state: ClientState) -> None:
        """Write a client's state after ``server_round``, atomically."""
        content = {**state, WHOSE: self._whose(client, server_round)}
        write_atomically(self._path(client, server_round), with_checksum(content))

    def pack(self, client: int, server_round: int) -> bytes | None:
        """A client's state after ``server_round`` as a file's content, to be sent elsewhere; None if there is none."""
        path = self._path(client, server_round)
        return path.read_bytes() if path.exists() else None

    def unpack(self, client: int, server_round: int, content: bytes) -> None:
        """Write what ``pack`` returned, atomically."""
        path = self._path(client, server_round)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, content)

    def _whose(self, client: int, server_round: int) -> dict[str, str | int]:
        return {"run": self.run, "client": client, "round": server_round}

    def _path(self, client: int, server_round: int) -> Path:
        return self.folder / str(client) / f"{server_round}.pt"
