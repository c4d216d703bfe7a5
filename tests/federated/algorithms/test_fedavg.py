from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from torch.nn import functional as F

from federated import algorithms
from federated.algorithms.averaging import weighted_mean, weighted_sum
from federated.algorithms.fedavg import FedAvg
from federated.client import workspace
from federated.client.training import normalise, weights_of
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.data import sets as data
from federated.data.partition import make_partition
from federated.engines.inprocess import InProcessGrid
from federated.messages import from_record
from federated.server.cohort import Federation


def random_weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "half": torch.randn(2, generator=generator).half(),
        "batches": torch.tensor(seed * 7 % 5),
    }


def test_registry_finds_algorithms_by_file() -> None:
    assert {"fedavg", "scaffold", "krum"} < set(algorithms.names())
    assert isinstance(algorithms.load("fedavg").build_strategy(RunConfig()), FedAvg)
    assert algorithms.options("fedprox") == {"prox_mu": 0.01}
    assert (algorithms.keeps_state("scaffold"), algorithms.keeps_state("fedavg")) == (True, False)


@pytest.mark.parametrize("name", algorithms.names())
def test_options_read_from_the_text_are_the_modules_and_fields(name: str) -> None:
    assert algorithms.options(name) == asdict(algorithms.load(name).Options())
    for option, default in algorithms.options(name).items():
        assert getattr(RunConfig(strategy=name), option) == default


def test_weighted_mean_and_integer_buffers() -> None:
    weights, counts = [random_weights(seed) for seed in range(4)], [5, 1, 30, 2]
    mean = weighted_mean(weights, counts)
    for name in ("weight", "half"):
        expected = np.average([w[name].double().numpy() for w in weights], axis=0, weights=counts)
        np.testing.assert_allclose(mean[name].double().numpy(), expected, rtol=1e-3 if name == "half" else 1e-6)
        assert mean[name].dtype == weights[0][name].dtype
    assert mean["batches"].dtype == torch.int64
    assert mean["batches"] == max(int(w["batches"]) for w in weights)


def test_identical_clients_change_nothing() -> None:
    weights = random_weights(1)
    mean = weighted_mean([weights] * 3, [1, 1, 1])
    assert all(torch.equal(mean[name], weights[name]) for name in weights)


def test_weighted_sum() -> None:
    parts = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([10.0, 20.0])}]
    assert torch.equal(weighted_sum(parts, [2.0, -1.0])["a"], torch.tensor([-8.0, -16.0]))


def test_messages_share_no_records() -> None:
    grid = InProcessGrid(ClientApp(), 2)
    config = ConfigRecord({"run-config": "x"})
    first, second = FedAvg().configure_train(4, ArrayRecord(random_weights(0)), config, grid)
    assert first.content.config_records["config"]["server-round"] == 4
    first.content.config_records["config"]["run-config"] = "changed"
    first.content.array_records["arrays"].pop("weight")
    assert second.content.config_records["config"]["run-config"] == "x"
    assert "weight" in second.content.array_records["arrays"]
    assert "server-round" not in config


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
    workspace.share(message_config, space)
    grid = InProcessGrid(client_app, clients)
    partition_of = {node: node - 2 for node in grid.get_node_ids()}
    strategy = Federation(FedAvg(), space.parameters, clients, 0, partition_of)
    replies = grid.send_and_receive(strategy.configure_train(1, ArrayRecord(start), message_config, grid))
    arrays, _ = strategy.aggregate_train(1, replies)
    workspace.close()

    assert arrays is not None
    for name, tensor in from_record(arrays).items():
        torch.testing.assert_close(tensor, centralised[name], atol=1e-5, rtol=0)
        assert (tensor - start[name]).abs().max() > 1e-4, "the step moved nothing"
