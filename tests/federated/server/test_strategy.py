"""What ``Federation`` does around any strategy: who takes part, in which order, and what becomes of buffers."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from federated import algorithms
from federated.algorithms.averaging import weighted_mean
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.messages import from_record
from federated.server.cohort import Federation, sample_clients

PARAMETERS = frozenset({"weight", "affine"})
OPTIONS: dict[str, Any] = {"clients": 7}


def model(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "running_mean": torch.randn(4, generator=generator),
        "affine": torch.randn(4, generator=generator),
        "num_batches_tracked": torch.tensor(seed * 7 % 5),
    }


def replies(grid: InProcessGrid, strategy: str, without: frozenset[str] = frozenset()) -> list[Message]:
    """What clients with models of their own would answer."""
    answers = []
    for node in grid.get_node_ids():
        metrics = {"num-examples": node * 3, "train_loss": 0.1 * node, "initial_loss": 1.0, "effective_steps": 5.0}
        weights = {name: tensor for name, tensor in model(node).items() if name not in without}
        content = RecordDict({"arrays": ArrayRecord(weights), "metrics": MetricRecord(metrics)})
        if strategy == "scaffold":
            content["control"] = ArrayRecord({name: weights[name] for name in weights if name in PARAMETERS})
        answers.append(Message(content, reply_to=Message(RecordDict(), node, "train")))
    return answers


def build(strategy: str, participants: int = 7) -> tuple[Federation, InProcessGrid]:
    config = RunConfig(strategy=strategy, **OPTIONS)
    grid = InProcessGrid(ClientApp(), config.clients)
    inner = algorithms.load(strategy).build_strategy(config)
    return Federation(inner, PARAMETERS, participants, 0, {node: node - 2 for node in grid.get_node_ids()}), grid


@pytest.mark.parametrize("strategy", algorithms.names())
def test_buffers_are_averaged_and_never_optimised(strategy: str) -> None:
    federation, grid = build(strategy)
    list(federation.configure_train(1, ArrayRecord(model(0)), ConfigRecord(), grid))
    arrays, _ = federation.aggregate_train(1, replies(grid, strategy))
    assert arrays is not None
    weights = from_record(arrays)
    assert list(weights) == list(model(0))
    assert {name: tensor.dtype for name, tensor in weights.items()} == {n: t.dtype for n, t in model(0).items()}
    nodes = list(grid.get_node_ids())
    expected = weighted_mean([model(node) for node in nodes], [3 * node for node in nodes])
    for buffer in ("running_mean", "num_batches_tracked"):
        assert torch.equal(weights[buffer], expected[buffer])
    assert not torch.equal(weights["weight"], model(0)["weight"])


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_buffers_that_are_not_sent_stay_the_servers(strategy: str) -> None:
    federation, grid = build(strategy)
    list(federation.configure_train(1, ArrayRecord(model(0)), ConfigRecord(), grid))
    buffers = frozenset({"running_mean", "num_batches_tracked"})
    arrays, _ = federation.aggregate_train(1, replies(grid, strategy, without=buffers))
    assert arrays is not None
    assert all(torch.equal(from_record(arrays)[name], model(0)[name]) for name in buffers)


@pytest.mark.parametrize("strategy", ["fedavg", "krum", "scaffold"])
def test_arrival_order_does_not_matter(strategy: str) -> None:
    outcomes = []
    for order in list(permutations(range(7)))[::700]:
        federation, grid = build(strategy)
        list(federation.configure_train(1, ArrayRecord(model(0)), ConfigRecord(), grid))
        answers = replies(grid, strategy)
        arrays, averaged = federation.aggregate_train(1, [answers[index] for index in order])
        assert arrays is not None
        outcomes.append(({name: array.data for name, array in arrays.items()}, dict(averaged or {})))
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_messages_hold_the_whole_model_and_share_nothing() -> None:
    federation, grid = build("scaffold")
    messages = list(federation.configure_train(4, ArrayRecord(model(0)), ConfigRecord({"run-config": "x"}), grid))
    for message in messages:
        assert list(message.content.array_records["arrays"]) == list(model(0))
        assert set(message.content.array_records["control"]) == PARAMETERS
        assert message.content.config_records["config"]["server-round"] == 4
    messages[0].content.array_records["control"].clear()
    messages[0].content.array_records["arrays"].clear()
    messages[0].content.config_records["config"]["run-config"] = "changed"
    assert messages[1].content.array_records["control"]
    assert messages[1].content.array_records["arrays"]
    assert messages[1].content.config_records["config"]["run-config"] == "x"


def test_sampling_is_a_function_of_seed_and_round() -> None:
    clients = list(range(20))
    chosen = [sample_clients(0, server_round, clients, 6) for server_round in range(1, 50)]
    assert chosen == [sample_clients(0, server_round, clients, 6) for server_round in range(1, 50)]
    assert all(len(set(some)) == 6 and some == sorted(some) for some in chosen)
    assert {client for some in chosen for client in some} == set(clients)
    assert chosen[0] != chosen[1]
    assert chosen[0] != sample_clients(1, 1, clients, 6)
    assert sample_clients(0, 1, clients, 20) == clients


def test_sampling_is_by_partition_not_by_node() -> None:
    grid = InProcessGrid(ClientApp(), 5)
    inner = algorithms.load("fedavg").build_strategy(RunConfig())
    chosen = []
    for nodes in ([2, 3, 4, 5, 6], [6, 4, 2, 5, 3]):
        partition_of = {node: partition for partition, node in enumerate(nodes)}
        federation = Federation(inner, PARAMETERS, 2, 0, partition_of)
        messages = federation.configure_train(1, ArrayRecord(model(0)), ConfigRecord(), grid)
        chosen.append([partition_of[message.metadata.dst_node_id] for message in messages])
    assert chosen[0] == chosen[1]


def everything(federation: Federation, arrays: ArrayRecord | None) -> Tensor:
    """The weights and what the strategy carries, as one vector."""
    assert arrays is not None
    states = [tensor for state in federation.state_dict().values() for tensor in state.values()]
    return torch.cat([tensor.flatten().double() for tensor in (*from_record(arrays).values(), *states)])


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold", "feddyn"])
def test_a_strategys_state_comes_back(strategy: str) -> None:
    whole, grid = build(strategy)
    list(whole.configure_train(1, ArrayRecord(model(0)), ConfigRecord(), grid))
    arrays, _ = whole.aggregate_train(1, replies(grid, strategy))
    assert arrays is not None
    saved = {name: {n: t.clone() for n, t in state.items()} for name, state in whole.state_dict().items()}
    outcomes = []
    for state in (None, saved, {}):
        federation = whole if state is None else build(strategy)[0]
        federation.load_state_dict(state or {})
        list(federation.configure_train(2, arrays, ConfigRecord(), grid))
        combined, _ = federation.aggregate_train(2, replies(grid, strategy))
        outcomes.append(everything(federation, combined))
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.allclose(outcomes[0], outcomes[2]), "the state made no difference"
