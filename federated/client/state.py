"""What clients remember from round to round: one small file for each client and round, none of it in memory.

A client that is told to train from its state of round 7 reads that version, removes every other, and writes the
version of the current round. The server commits a version by saving the round in which it was made. Until then the
version before is still there, so that a run that is killed at any moment resumes from states of one round, and a
client whose reply was dropped resumes from the state of its last reply that counted.
"""

from __future__ import annotations

from pathlib import Path

from federated.client.training import ClientState
from fps_pretrain.common.files import write_bytes_atomically
from fps_pretrain.models.tensor_file import read_file, write_atomically


class ClientStates:
    """The states of clients in a folder, ``<client>/<round>.pt``.

    Args:
        folder: made when the first state is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, client: int, server_round: int) -> ClientState:
        """A client's state after ``server_round``; empty for round 0, before the first.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_file(self._path(client, server_round)) if server_round else {}

    def take(self, client: int, server_round: int) -> ClientState:
        """As ``load``, at the start of a round: ``server_round`` is committed, all other versions are removed."""
        self.keep(client, server_round)
        return self.load(client, server_round)

    def keep(self, client: int, server_round: int) -> None:
        """Remove all versions of a client's state but the one after ``server_round``."""
        current = self._path(client, server_round)
        for path in current.parent.iterdir() if current.parent.exists() else ():
            if path != current:  # also what an interrupted write left
                path.unlink(missing_ok=True)

    def save(self, client: int, server_round: int, state: ClientState) -> None:
        """Write a client's state after ``server_round``, atomically."""
        write_atomically(self._path(client, server_round), state)

    def pack(self, client: int, server_round: int) -> bytes | None:
        """A client's state after ``server_round`` as a file's content, to be sent elsewhere; None if there is none."""
        path = self._path(client, server_round)
        return path.read_bytes() if path.exists() else None

    def unpack(self, client: int, server_round: int, content: bytes) -> None:
        """Write what ``pack`` returned, atomically."""
        path = self._path(client, server_round)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, content)

    def _path(self, client: int, server_round: int) -> Path:
        return self.folder / str(client) / f"{server_round}.pt"
