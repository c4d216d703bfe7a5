"""What clients remember from round to round: one small file for each client and round, none of it in memory.

A client that is told to train from its state of round 7 reads that version and removes every other, then writes the
version of the round it works on. A version counts once the server has saved the round in which it was made; until then
the one before is still there. So a run that is killed at any moment, even between two clients, goes on from states
that belong together, and a client whose reply was dropped goes on from the state of its last reply that counted.
"""

from __future__ import annotations

from pathlib import Path

from federated.client.training import ClientState
from fps_pretrain.models.checkpoint import read_file, write_atomically


class ClientStates:
    """The states of clients in a folder, ``<client>/<round>.pt``.

    Args:
        folder: made when the first state is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, client: int, server_round: int) -> ClientState:
        """A client's state after ``server_round``; empty for round 0, before any.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_file(self._path(client, server_round)) if server_round else {}

    def take(self, client: int, server_round: int) -> ClientState:
        """As ``load``, to begin a round with: ``server_round`` is known to count, and all other versions go."""
        self.keep(client, server_round)
        return self.load(client, server_round)

    def keep(self, client: int, server_round: int) -> None:
        """Remove all versions of a client's state but the one after ``server_round``."""
        current = self._path(client, server_round)
        for path in current.parent.iterdir() if current.parent.exists() else ():
            if path != current:  # what an interrupted write left goes, too
                path.unlink(missing_ok=True)

    def save(self, client: int, server_round: int, state: ClientState) -> None:
        """Write a client's state after ``server_round``, atomically."""
        write_atomically(self._path(client, server_round), state)

    def _path(self, client: int, server_round: int) -> Path:
        return self.folder / str(client) / f"{server_round}.pt"
