"""The workspace of a process: found by what a message says of its run, and the model that it lends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from federated import open_workspace
from federated.algorithms import fedavg
from federated.client import workspace
from federated.client.training import Client, ClientUpdate
from federated.config.run import RunConfig, from_yaml
from federated.data import sets as data
from federated.data.partition import make_partition
from federated.data.partition_file import save_partition
from federated.server.run import run
from federated.weights import Weights

Tiny = Callable[..., RunConfig]


def build(config: RunConfig) -> workspace.Workspace:
    dataset = data.load(config)
    return workspace.Workspace.build(config, dataset, make_partition(config, dataset.train.labels, None))


def test_bfloat16_rounds_features_and_leaves_weights_and_outputs_in_32_bits(tiny: Tiny) -> None:
    exact, rounded = build(tiny()).model.eval(), build(tiny(precision="bf16")).model.eval()
    assert exact.state_dict().keys() == rounded.state_dict().keys()
    assert all(tensor.dtype != torch.bfloat16 for tensor in rounded.state_dict().values())
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, found = exact(images), rounded(images)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_copy_of_a_model_in_bfloat16_computes_with_its_own_weights(tiny: Tiny) -> None:
    """MOON copies models to keep the encoders of earlier rounds."""
    model = build(tiny(precision="bf16")).model.eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.get_submodule("encoder")(images).any()
    assert not other.get_submodule("encoder")(images).any()


def test_messages_name_places_as_they_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    config = RunConfig(dataset="folder:images", dp="fixed", dp_secret=987654321)
    places = [Path(name) for name in ("run/partition.npz", "run/training", "run/clients")]
    message = open_workspace.message_config(config, *places, run="r")
    told = from_yaml(str(message["run-config"]))
    assert told.dataset == f"folder:{tmp_path / 'images'}"
    names = ("partition-file", "training-data", "client-states")
    assert [message[name] for name in names] == [str(tmp_path / place) for place in places]
    assert message["run"] == "r"
    assert "987654321" not in str(message)
    other = open_workspace.message_config(RunConfig(dataset="cifar10", data_dir=Path("data")), places[0])
    assert from_yaml(str(other["run-config"])).data_dir == tmp_path / "data"
    assert not {"training-data", "client-states", "classes"} & other.keys()


def test_a_process_has_one_workspace_and_that_is_the_one_that_was_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    messages = []
    for clients in (2, 3):
        config = tiny(clients=clients)
        dataset = data.load(config)
        save_partition(tmp_path / f"{clients}.npz", make_partition(config, dataset.train.labels, None))
        messages.append(open_workspace.message_config(config, tmp_path / f"{clients}.npz"))
    try:
        for message, clients in zip([*messages, messages[0]], (2, 3, 2), strict=True):
            found = open_workspace.find(message)
            assert len(found.partition) == found.config.clients == clients
            assert open_workspace.find(message) is found
            assert len(open_workspace._current) == 1, "the memory of the other is free again"
    finally:
        open_workspace.close()


def test_a_run_frees_its_workspace_however_it_ends(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny(rounds=1), quiet=True)
    assert not open_workspace._current
    monkeypatch.setattr("federated.server.run.Clients.find", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny(rounds=2), quiet=True)
    assert not open_workspace._current


def test_clients_in_this_process_train_with_the_threads_of_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums depend on their number."""
    original, seen = fedavg.train_client, set[int]()

    def train(client: Client, weights: Weights) -> ClientUpdate:
        seen.add(torch.get_num_threads())
        return original(client, weights)

    monkeypatch.setattr(fedavg, "train_client", train)
    assert torch.get_num_threads() == 1
    run(tiny(rounds=1, threads=2), quiet=True)
    assert seen == {2}
    assert torch.get_num_threads() == 1
