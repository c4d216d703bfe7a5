from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from torch import Tensor, nn
from torch.nn import functional as F

from federated import algorithms, open_workspace
from federated.algorithms.averaging import Mean, Sum, lower_median, mean_metrics, weighted_sum
from federated.client import workspace
from federated.client.training import normalise
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.data import sets as data
from federated.data.partition import make_partition
from federated.engines.inprocess import InProcessGrid
from federated.engines.start import Engine
from federated.server.exchange import Clients
from federated.server.output.progress import RoundBar
from federated.server.output.run_folder import State
from federated.server.rounds import Loop
from federated.weights import weights_of
from tests.federated.conftest import mean_of


def random_weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "half": torch.randn(2, generator=generator).half(),
        "batches": torch.tensor(seed * 7 % 5),
    }


@pytest.mark.parametrize("name", algorithms.names())
def test_an_algorithm_is_complete(name: str) -> None:
    algorithm = algorithms.load(RunConfig(strategy=name))
    assert algorithm.name == name
    assert callable(algorithm.train_client)
    assert callable(algorithm.init)
    assert callable(algorithm.combine)
    for field in fields(algorithm.options):
        assert getattr(algorithm.options, field.name) == field.default


def test_algorithms_are_found_by_file() -> None:
    assert {"fedavg", "scaffold", "krum"} < set(algorithms.names())
    assert not {"base", "averaging", "flower"} & set(algorithms.names())
    keeping = {name for name in algorithms.names() if algorithms.load(RunConfig(strategy=name)).options.keeps_state}
    assert keeping == {"scaffold", "feddyn", "moon"}


def test_weighted_mean_and_integer_buffers() -> None:
    weights, counts = [random_weights(seed) for seed in range(4)], [5, 1, 30, 2]
    mean = mean_of(weights, counts)
    for name in ("weight", "half"):
        expected = np.average([w[name].double().numpy() for w in weights], axis=0, weights=counts)
        np.testing.assert_allclose(mean[name].double().numpy(), expected, rtol=1e-3 if name == "half" else 1e-6)
        assert mean[name].dtype == weights[0][name].dtype
    assert mean["batches"].dtype == torch.int64
    assert mean["batches"] == max(int(w["batches"]) for w in weights)


def test_a_mean_leaves_what_it_is_given_as_it_is_and_keeps_the_order_of_the_names() -> None:
    parts = [{"batches": torch.tensor([3, 8]), "w": torch.ones(2, dtype=torch.float64)} for _ in range(2)]
    parts[1]["batches"] = torch.tensor([5, 1])
    mean = Mean([1])
    mean.add(parts[0], 1)
    first = mean.result()
    mean.add(parts[1], 1)
    assert list(mean.result()) == ["batches", "w"]
    assert mean.result()["batches"].tolist() == [5, 8]
    assert (parts[0]["batches"].tolist(), first["w"].tolist()) == ([3, 8], [1, 1])


def test_the_lower_median_is_one_of_the_values() -> None:
    """Of four the second: their mean would let the largest move it."""
    counts = [{"n": torch.tensor([count, 2**60 - count])} for count in (9, 1, 3, 2**60)]
    assert lower_median(counts)["n"].tolist() == [3, 2**60 - 9]


def test_identical_clients_change_nothing() -> None:
    weights = random_weights(1)
    mean = mean_of([weights] * 3, [1, 1, 1])
    assert all(torch.equal(mean[name], weights[name]) for name in weights)


def test_a_mean_of_fewer_than_were_expected_is_that_of_those_that_came() -> None:
    weights, counts = [random_weights(seed) for seed in range(4)], [5, 1, 30, 2]
    mean = Mean(counts)
    for number in (0, 2, 3):
        mean.add(weights[number], counts[number])
    expected = mean_of([weights[0], *weights[2:]], [5, 30, 2])
    assert list(mean.result()) == list(expected)
    assert all(torch.allclose(mean.result()[name], expected[name]) for name in expected)
    assert torch.equal(mean.in_float64["weight"].float(), mean.result()["weight"])


def test_a_sum_keeps_one_buffer_and_nothing_of_what_is_added() -> None:
    total, part = Sum(), {"a": torch.ones(3)}
    for number in range(3):
        total.add(part, 10.0**number)
        part["a"].zero_().add_(1)
    buffer = total.total["a"]
    total.add({"a": torch.ones(3)}, 1000.0)
    assert total.total["a"] is buffer
    assert total.result()["a"].tolist() == [1111.0] * 3
    assert total.result(2.0)["a"].dtype == torch.float32


def test_weighted_sum() -> None:
    parts = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([10.0, 20.0])}]
    assert torch.equal(weighted_sum(parts, [2.0, -1.0])["a"], torch.tensor([-8.0, -16.0]))


def test_metrics_are_averaged_by_their_counts() -> None:
    metrics = [{"train_loss": 1.0, "train_accuracy": 0.5}, {"train_loss": 3.0, "train_accuracy": 0.1}]
    assert mean_metrics(metrics, [3, 1]) == pytest.approx({"train_loss": 1.5, "train_accuracy": 0.4})


@pytest.mark.parametrize("clients", [10, 7])
def test_a_full_batch_round_is_a_centralised_step(clients: int) -> None:
    """One full-batch step at each client, averaged by examples, is one step on all examples (linear in the gradient).

    Through the strategy, the grid and the ClientApp; without BatchNorm, whose statistics are each client's own.
    """
    config = RunConfig(
        limit_train=200, limit_test=10, image_size=16, validation=0.0, clients=clients, partition="iid",
        batch_size=1000, local_epochs=1, augment="none", momentum=0.9, weight_decay=0.01, lr=0.1, device="cpu",
    )  # fmt: skip
    dataset = data.load(config)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10))
    images, labels = torch.from_numpy(dataset.train.images), torch.from_numpy(dataset.train.labels)
    partition = make_partition(config, dataset.train.labels)
    space = workspace.Workspace(config, dataset, partition, model, torch.device("cpu"), (images, labels))
    start = weights_of(model)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    F.cross_entropy(model(normalise(images)), labels).backward()
    optimizer.step()
    centralised = weights_of(model)

    message_config = ConfigRecord({"run-config": "shared", "partition-file": ""})
    open_workspace.share(message_config, space)
    loop = Loop(
        config=config,
        space=space,
        algorithm=algorithms.load(config),
        clients=Clients.find(Engine(InProcessGrid(client_app, clients), message_config), config),
        most_examples=[len(part) for part in partition],
    )
    with RoundBar(1, 0, quiet=True) as bar:
        result = loop.round(1, State(0, start, "", "", torch.zeros(clients, dtype=torch.int64)), bar)
    open_workspace.close()

    for name, tensor in result.state.weights.items():
        torch.testing.assert_close(tensor, centralised[name], atol=1e-5, rtol=0)
        assert (tensor - start[name]).abs().max() > 1e-4, "the step moved nothing"
