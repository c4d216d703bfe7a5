"""What a client remembers, in files or in its node's memory: the rounds that count, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict

from federated.client.state import ClientStates
from federated.client.training import ClientState
from federated.node_state import NodeState, States
from fps_pretrain.common.errors import UserError

Store = Callable[[], States]


@pytest.fixture(params=["in files", "in memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Opens the same store again and again, as each message does."""
    records = RecordDict()
    return lambda: NodeState(records) if request.param == "in memory" else ClientStates(tmp_path / "clients", "run")


def state(value: float) -> ClientState:
    return {"control": {"w": torch.full((2,), value)}, "own": {"v": torch.full((1,), -value)}}


def assert_is(found: ClientState, value: float) -> None:
    assert found.keys() == {"control", "own"}
    assert torch.equal(found["control"]["w"], torch.full((2,), value))
    assert torch.equal(found["own"]["v"], torch.full((1,), -value))


def test_before_the_first_round_there_is_nothing(store: Store) -> None:
    assert store().load(0, 0) == store().take(0, 0) == {}


def test_rounds_whose_numbers_begin_alike_are_told_apart(store: Store) -> None:
    for server_round in (1, 10, 12):
        store().save(0, server_round, state(server_round))
    for server_round in (1, 10, 12):
        assert_is(store().load(0, server_round), server_round)
    assert_is(store().take(0, 1), 1.0)
    for gone in (10, 12):
        with pytest.raises(UserError):
            store().load(0, gone)
    assert_is(store().load(0, 1), 1.0)


def test_a_reply_that_did_not_count_is_forgotten(store: Store) -> None:
    """The client is told the round of its last reply that counted, and does the next from there."""
    store().save(0, 3, state(3.0))
    assert_is(store().take(0, 3), 3.0)
    store().save(0, 4, state(4.0))
    assert_is(store().load(0, 3), 3.0)
    assert_is(store().take(0, 3), 3.0)
    with pytest.raises(UserError):
        store().load(0, 4)
    store().save(0, 5, state(5.0))
    assert_is(store().take(0, 5), 5.0)
    with pytest.raises(UserError):
        store().load(0, 3)


def test_a_run_that_begins_again_finds_nothing_of_the_one_before(store: Store) -> None:
    store().save(0, 2, state(2.0))
    assert store().take(0, 0) == {}
    with pytest.raises(UserError):
        store().load(0, 2)


def test_what_is_asked_for_in_vain_costs_nothing_that_is_there(store: Store) -> None:
    store().save(0, 2, state(2.0))
    with pytest.raises(UserError):
        store().take(0, 7)
    assert_is(store().load(0, 2), 2.0)


def test_what_is_loaded_may_be_changed(store: Store) -> None:
    store().save(0, 1, state(1.0))
    store().load(0, 1)["control"]["w"].zero_()
    assert_is(store().load(0, 1), 1.0)


def test_a_nodes_memory_holds_two_rounds_at_most() -> None:
    records = RecordDict()
    for server_round in range(1, 30):
        states = NodeState(records)
        states.take(0, server_round - 1)
        states.save(0, server_round, state(server_round))
    assert sorted(records.array_records) == sorted(
        f"client-state/{r}/{n}" for r in (28, 29) for n in ("control", "own")
    )
