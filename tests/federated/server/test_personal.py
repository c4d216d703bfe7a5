"""What is measured where clients have heads of their own, and where they fine-tune the global model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from federated import client_app as client_side
from federated.algorithms import fedavg
from federated.client import fine_tuning
from federated.client.evaluation import at_client, client_accuracies, evaluate
from federated.client.failures import ClientTimeout
from federated.client.features import encode
from federated.client.training import Client, ClientDiverged, ClientHyperparameters, ClientUpdate, local_sgd
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data import sets
from federated.data.memmap import export_memmap, import_memmap
from federated.data.partition import make_partition
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import seed_of
from fps_pretrain.images.pixels import normalise
from tests.federated.conftest import run_quietly, take_no_pictures

Tiny = Callable[..., RunConfig]

FIELDS: dict[str, Any] = {"limit_train": 60, "limit_test": 60, "partition": "shards", "rounds": 2, "lr": 0.02}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    take_no_pictures(monkeypatch)


def space_of(config: RunConfig) -> Workspace:
    dataset = sets.load(config)
    return Workspace.build(config, dataset, make_partition(config, dataset.train.labels))


def head_of(folder: Path, client: int, server_round: int) -> dict[str, Tensor]:
    state = torch.load(folder / "clients" / str(client) / f"{server_round}.pt", weights_only=True)
    return dict(state["head"])


def accuracy_of(space: Workspace, client: int, weights: dict[str, Tensor]) -> float:
    """The slow way: each image by the whole model, each class by its share of the client's examples."""
    images, labels = space.split("test")
    space.model.load_state_dict(weights)
    space.model.eval()
    with torch.inference_mode():
        hits = (space.model(normalise(images)).argmax(1) == labels).numpy()
    own = space.dataset.train.labels[space.partition[client]]
    present = [label for label in own if (labels == int(label)).any()]
    return float(np.mean([hits[labels.numpy() == label].mean() for label in present]))


def test_each_client_is_judged_under_its_own_head(tiny: Tiny) -> None:
    config = tiny(**FIELDS, personal="head", clients=4, participation=0.5, seed=1)
    result = run(config, quiet=True)
    space, state = space_of(config), RunFolder(result.folder).load_state()
    assert {0} < set(state.client_rounds.tolist()), "one has not trained and is judged under the head of the beginning"
    expected = []
    for client, last in enumerate(state.client_rounds.tolist()):
        own = head_of(result.folder, client, last) if last else {}
        expected.append(accuracy_of(space, client, {**state.weights, **own}))
    row = result.history[-1]
    assert row["client_accuracies"] == pytest.approx(expected, abs=1e-6)
    # The test set has no client: the head is the one that all began with.
    images, labels = space.split("test")
    assert row["test_loss"] == evaluate(space.model, state.weights, images, labels, 256)[0]
    assert "client_accuracies" not in result.history[0], "only after the last round unless --per-client-every says more"
    log = (result.folder / "log.txt").read_text()
    assert "test accuracy (under the head the run began with)" in log
    assert f"finished: accuracy at the clients, each with its own head {row['client_accuracy_mean']:.4f}" in log
    assert "each client keeps its own head" in log


def test_heads_differ_and_go_on_from_round_to_round(tiny: Tiny) -> None:
    result = run(tiny(**FIELDS, personal="head"), quiet=True)
    heads = [head_of(result.folder, client, 2) for client in range(3)]
    assert not torch.equal(heads[0]["head.weight"], heads[1]["head.weight"])
    before = RunFolder(result.folder).load_state().weights["head.weight"]
    assert all(not torch.equal(head["head.weight"], before) for head in heads)


def test_a_head_that_is_no_number_is_not_kept(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sees the encoder alone, and would take the reply."""
    fields = {**FIELDS, "personal": "head", "rounds": 3}
    original = fedavg.train_client

    def train(client: Client, weights: dict[str, Tensor]) -> ClientUpdate:
        update = original(client, weights)
        if client.key[1:] != (2, 1):
            return update
        return update._replace(weights={**update.weights, "head.bias": torch.full((10,), float("nan"))})

    monkeypatch.setattr(fedavg, "train_client", train)
    result = run(tiny(**fields), quiet=True)
    assert [[failure["client"] for failure in row["failures"]] for row in result.history] == [[], [], [1], []]
    assert "the trained weights are not finite" in result.history[2]["failures"][0]["reason"]
    assert all(torch.isfinite(tensor).all() for tensor in head_of(result.folder, 1, 3).values())


def test_fine_tuning_is_local_training_and_leaves_the_global_model_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    fields = {**FIELDS, "per_client_every": 1, "lr_schedule": "cosine"}
    plain_rows, plain = run_quietly(tiny(**fields, output=tmp_path / "plain"))
    config = tiny(**fields, output=tmp_path / "tuned", fine_tune_epochs=3)
    rows, weights = run_quietly(config)
    assert weights == plain
    added = {name for name in rows[-1] if name.startswith("fine_tuned")}
    summary = ("accuracy_mean", "accuracy_std", "accuracy_worst_tenth")
    assert added == {f"fine_tuned_{what}" for what in ("accuracies", *summary)}
    assert [{n: v for n, v in row.items() if n not in added} for row in rows] == plain_rows
    space, state = space_of(config), RunFolder(config.folder).load_state()
    hyper = ClientHyperparameters(0.02, 0.9, 0.0005, 3, 8, "crop")  # the learning rate of the first round
    for client in range(3):
        images, labels = space.examples_of(client)
        key = (seed_of(0, "fine-tune"), 2, client)
        tuned = local_sgd(Client(space.model, images, labels, hyper, key), state.weights).weights
        assert rows[-1]["fine_tuned_accuracies"][client] == pytest.approx(accuracy_of(space, client, tuned), abs=1e-6)
    assert rows[-1]["fine_tuned_accuracies"] != rows[-1]["client_accuracies"]


@pytest.mark.parametrize("fields", [{"train": "head"}, {"train": "last-block"}, {"personal": "head"}])
def test_fine_tuning_changes_what_is_trained(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    original = fine_tuning.fine_tune

    def fine_tune(space: Workspace, number: int, weights: dict[str, Tensor], server_round: int) -> dict[str, Tensor]:
        tuned = original(space, number, weights, server_round)
        seen.append((weights, tuned))
        return tuned

    monkeypatch.setattr(client_side, "fine_tune", fine_tune)
    config = tiny(**FIELDS, **fields, fine_tune_epochs=1)
    run(config, quiet=True)
    parts = space_of(config).parts
    assert len(seen) == 3
    for before, after in seen:
        assert {n for n in before if not torch.equal(before[n], after[n])} == (
            parts.parameters | parts.buffers | parts.kept
        )
    if parts.kept:
        assert torch.equal(seen[1][0]["head.weight"], head_of(config.folder, 1, 2)["head.weight"])


def test_a_client_whose_fine_tuning_diverges_has_no_accuracy_after_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fine_tuning.local_sgd

    def diverge(client: Client, weights: dict[str, Tensor]) -> ClientUpdate:
        if client.key[2] == 1:
            raise ClientDiverged("too fast")
        return original(client, weights)

    monkeypatch.setattr(fine_tuning, "local_sgd", diverge)
    result = run(tiny(**FIELDS, fine_tune_epochs=1), quiet=True)
    row = result.history[-1]
    assert [value is None for value in row["fine_tuned_accuracies"]] == [False, True, False]
    assert None not in row["client_accuracies"]
    assert (
        "round 2: client 1 is not evaluated: sent no fine tuned accuracy from 0 to 1"
        in (result.folder / "log.txt").read_text()
    )


def test_fine_tuning_ends_with_weights_that_are_no_numbers_and_with_the_time(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is taken before the last step, after which the weights may be infinite."""
    config = tiny(fine_tune_epochs=1)
    space = space_of(config)
    weights = {name: tensor.clone() for name, tensor in space.model.state_dict().items()}
    with pytest.raises(ClientTimeout):
        fine_tuning.fine_tune(space_of(replace(config, client_timeout=1e-9)), 0, weights, 1)
    original = fine_tuning.local_sgd

    def spoil(client: Client, start: dict[str, Tensor]) -> ClientUpdate:
        update = original(client, start)
        return update._replace(weights={**update.weights, "head.bias": torch.full((10,), float("inf"))})

    monkeypatch.setattr(fine_tuning, "local_sgd", spoil)
    with pytest.raises(ClientDiverged, match="not finite"):
        fine_tuning.fine_tune(space, 0, weights, 1)


def test_features_of_test_examples_are_shared_by_clients_of_one_encoder(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**FIELDS, personal="head")
    space = space_of(config)
    weights = {name: tensor.clone() for name, tensor in space.model.state_dict().items()}
    calls: list[int] = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return encode(*arguments)

    monkeypatch.setattr("federated.client.workspace.encode", counted)
    for client in range(3):
        at_client(space, client, {**weights, "head.bias": torch.full((10,), float(client))})
    assert len(calls) == 1
    at_client(space, 0, {**weights, "encoder.conv1.weight": weights["encoder.conv1.weight"] + 1}, own_encoder=True)
    at_client(space, 0, weights)
    assert len(calls) == 1, "an encoder of one client alone takes the place of the others'"


def test_examples_of_other_processes_have_who_made_them(tmp_path: Path) -> None:
    split = sets.Split(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), np.array(["a", "b", "a", "longer"]))
    dataset = sets.Dataset(split, split.take(np.arange(1)), split.take(np.array([2, 3])), ("0", "1", "2", "3"))
    for test in (False, True):
        export_memmap(dataset, tmp_path / str(test), test=test)
        found = import_memmap(tmp_path / str(test))
        assert found.classes == dataset.classes
        assert found.train.user_ids is not None
        assert found.train.user_ids.tolist() == ["a", "b", "a", "longer"]
        assert found.test.labels.tolist() == ([2, 3] if test else [])
        assert len(found.validation) == 0
    assert found.test.user_ids is not None
    hits = np.array([True, False])
    accuracies = client_accuracies(hits, found.test, found.train, [np.array([0, 2]), np.array([3])], 4)
    assert accuracies.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train": "head", "personal": "head"}, "--personal head leaves nothing to share with --train head"),
        ({"train": "head", "augment": "crop"}, "--augment crop cannot be"),
        ({"train": "head", "bn_stats": "local"}, "--bn-stats does not go with --train head"),
        ({"train": "head", "strategy": "moon"}, "--strategy moon compares features, which --train head freezes"),
        ({"train": "last-block", "arch": "vgg11"}, "--train last-block goes with ResNets.*not with vgg11"),
        ({"personal": "head", "keep_best": True}, "--keep-best does not go with --personal head"),
        ({"train": "tail"}, "--train tail is unknown: choose one of all, head, last-block"),
        ({"personal": "all"}, "--personal all is unknown: choose one of none, head"),
        ({"fine_tune_epochs": -1}, "--fine-tune-epochs must be at least 0"),
        ({"train": "head", "feature_cache": -1}, "--feature-cache must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RunConfig(**fields)


def test_choices_that_follow_from_a_frozen_encoder() -> None:
    config = RunConfig(train="head")
    assert (config.bn_stats, config.augmentation, config.feature_cache) == (None, "none", 1000)
    assert RunConfig(train="head", dp="fixed", validation=0.0).bn_stats is None
    assert RunConfig(train="last-block", arch="resnet18").bn_stats == "average"
