"""Which node is which client, and in which order replies are handed on, wherever clients are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.server.run import RunFailed, run
from tests.federated.conftest import outcome, run_quietly

Tiny = Callable[..., RunConfig]


def grid_with(*partitions: int) -> InProcessGrid:
    """Nodes that hold these partitions, in the order of their ids."""
    grid = InProcessGrid(client_app, len(partitions))
    for context, partition in zip(grid._contexts.values(), partitions, strict=True):
        context.node_config = {"partition-id": partition}
    return grid


@pytest.mark.parametrize("fields", [{}, {"strategy": "scaffold", "participation": 0.6, "per_client_every": 1}])
def test_a_run_does_not_depend_on_which_node_holds_which_partition(
    tiny: Tiny, tmp_path: Path, fields: dict[str, object]
) -> None:
    """Flower gives nodes random ids."""
    expected = run_quietly(tiny(output=tmp_path / "in-order", rounds=2, **fields))
    assert outcome(run(tiny(rounds=2, **fields), quiet=True, grid=grid_with(2, 0, 1)).folder) == expected


def test_two_nodes_with_one_partition_are_refused(tiny: Tiny) -> None:
    with pytest.raises(RunFailed, match=r"the nodes hold partitions \[0, 1, 1\], not one for each client"):
        run(tiny(), quiet=True, grid=grid_with(1, 0, 1))


class Backwards(InProcessGrid):
    """Node 4 answers first, then nodes 3 and 2 at once."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = {identifier: self._pending[identifier] for identifier in message_ids}
        last = [identifier for identifier, message in wanted.items() if message.metadata.dst_node_id == 4]
        return [self.handle(self._pending.pop(identifier)) for identifier in last or reversed(list(wanted))]


def test_a_run_does_not_depend_on_who_answers_first(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_quietly(tiny(output=tmp_path / "in-order", per_client_every=1))
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr("federated.server.run.RoundBar.client", lambda _, done, of: shown.append((done, of)))
    assert outcome(run(tiny(per_client_every=1), quiet=True, grid=Backwards(client_app, 3)).folder) == expected
    assert set(shown) == {(1, 3), (3, 3)}
