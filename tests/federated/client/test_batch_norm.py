"""BatchNorm's statistics after a round, and GroupNorm in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import nn

from federated import client_app, open_workspace
from federated.client import workspace
from federated.client.batch_norm import (
    buffers_of,
    estimate_statistics,
    parameter_names,
    shuffled,
    with_norm,
)
from federated.client.evaluation import correct_mask, evaluate, of_splits
from federated.client.statistics import batch_norm_sums, class_sums
from federated.config.run import RunConfig
from federated.data import sets as data
from federated.data.partition import make_partition
from federated.engines.inprocess import InProcessGrid
from federated.server import rounds
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from federated.server.start.initialise import centroid_head, initial_classifier, initial_encoder, pooled_statistics
from federated.weights import weights_of
from fps_pretrain.common.errors import UserError
from fps_pretrain.images.pixels import normalise
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.checksum import digest
from fps_pretrain.models.encoders import build_classifier, build_encoder

Tiny = Callable[..., RunConfig]


def classifier(arch: str = "resnet8") -> nn.Sequential:
    return build_classifier(build_encoder(arch, seed=1), 10, seed=2)


def test_group_norm_takes_batch_norms_place_and_parameters() -> None:
    before = classifier("resnet20")
    for module in before.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.bias)
    expected = {name: tensor.clone() for name, tensor in before.named_parameters()}
    after = with_norm(before, "group")
    kinds = [type(module) for module in after.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) == 19
    assert {module.num_groups for module in after.modules() if isinstance(module, nn.GroupNorm)} == {2, 4, 8}
    assert not list(after.buffers())
    parameters = dict(after.named_parameters())
    assert list(parameters) == list(expected)
    assert all(torch.equal(parameters[name], tensor) for name, tensor in expected.items())
    one, two = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(after(torch.cat([one, two]))[:1], after(one))  # whatever else is in the batch


def test_batch_norm_is_left_as_it_is() -> None:
    model = classifier()
    assert with_norm(model, "batch") is model
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_group_norm_runs_from_a_checkpoint_with_batch_norm(tiny: Tiny, tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.pt", build_encoder("resnet8", seed=1), "resnet8", 1, {})
    folder = run(tiny(init=str(tmp_path / "encoder.pt"), norm="group", rounds=1), quiet=True).folder
    assert not [name for name in RunFolder(folder).load_state().weights if "running" in name]


def test_statistics_are_those_of_the_images() -> None:
    images = torch.randint(0, 256, (10, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = classifier()
    momenta = [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    estimated = estimate_statistics(model, classifier().state_dict(), images, batch_size=5)
    assert set(estimated) == set(buffers_of(model.state_dict(), parameter_names(model)))
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == momenta
    outputs = classifier().get_submodule("encoder").get_submodule("conv1")(normalise(images))
    halves = outputs.detach()[shuffled(10)].split(5)
    mean = torch.stack([half.mean((0, 2, 3)) for half in halves]).mean(0)
    variance = torch.stack([half.var((0, 2, 3)) for half in halves]).mean(0)
    torch.testing.assert_close(estimated["encoder.bn1.running_mean"], mean)
    torch.testing.assert_close(estimated["encoder.bn1.running_var"], variance)
    assert estimated["encoder.bn1.num_batches_tracked"] == 2
    lonely = estimate_statistics(model, classifier().state_dict(), images, batch_size=3)
    assert lonely["encoder.bn1.num_batches_tracked"] == 3, "a last batch of one is left out"
    ones, twos = (estimate_statistics(model, classifier().state_dict(), images, size) for size in (1, 2))
    assert all(torch.equal(ones[name], twos[name]) for name in twos), "one image is no batch"


def test_statistics_of_images_that_lie_class_by_class() -> None:
    dark, bright = (torch.full((32, 16, 16, 3), value, dtype=torch.uint8) for value in (20, 230))
    images = torch.cat([dark, bright])
    estimated = estimate_statistics(classifier(), classifier().state_dict(), images, batch_size=16)
    outputs = classifier().get_submodule("encoder").get_submodule("conv1")(normalise(images)).detach()
    torch.testing.assert_close(estimated["encoder.bn1.running_var"], outputs.var((0, 2, 3)), rtol=0.1, atol=1e-6)


def final_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return RunFolder(run(config, quiet=True).folder).load_state().weights


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_whose_statistics_changes_nothing_that_is_learned(tiny: Tiny, tmp_path: Path, strategy: str) -> None:
    weights = {
        bn_stats: final_weights(tiny(output=tmp_path / bn_stats, strategy=strategy, bn_stats=bn_stats))
        for bn_stats in ("average", "local", "server")
    }
    average = weights["average"]
    for bn_stats in ("local", "server"):
        for name, tensor in weights[bn_stats].items():
            if "running" not in name and "batches" not in name:
                assert torch.equal(tensor, average[name]), name
        assert not torch.equal(weights[bn_stats]["encoder.bn1.running_mean"], average["encoder.bn1.running_mean"])
    counts = {name: int(w["encoder.bn1.num_batches_tracked"]) for name, w in weights.items()}
    assert counts == {"average": 9, "local": 9, "server": 1}  # three rounds of three batches; one batch for the server


def answer(kind: str, space: workspace.Workspace, weights: dict[str, torch.Tensor], **more: Any) -> Message:
    """A client's answer to a message with these weights."""
    fixed = {"run-config": "shared", "partition-file": "", "server-round": 1, "run": "this"}
    message_config = ConfigRecord({**fixed, **more})
    open_workspace.share(message_config, space)
    content = RecordDict({"arrays": ArrayRecord(weights), "config": message_config})
    InProcessGrid(client_app.client_app, 1)
    message = Message(content, 2, kind)
    context = Context(1, 2, {"partition-id": 0}, RecordDict(), {})
    return client_app.client_app(message, context)


def space_of(config: RunConfig) -> workspace.Workspace:
    dataset = data.load(config)
    return workspace.Workspace.build(config, dataset, make_partition(config, dataset.train.labels))


def test_statistics_for_the_server_do_not_leave_the_client(tiny: Tiny) -> None:
    space = space_of(tiny(bn_stats="server"))
    weights = classifier().state_dict()
    reply = answer("train", space, weights, **{"state-round": 0})
    open_workspace.close()
    assert set(reply.content.array_records["arrays"]) == space.parameters


def test_clients_are_judged_by_their_own_statistics(tiny: Tiny, tmp_path: Path) -> None:
    space = space_of(tiny(bn_stats="local"))
    weights = dict(classifier().state_dict())
    more = {"client-states": str(tmp_path / "clients")}
    trained = answer("train", space, weights, **{**more, "state-round": 0})
    losses = [
        answer("evaluate", space, weights, **{**more, "state-round": version}).content.metric_records["metrics"]["loss"]
        for version in (0, 1)
    ]
    sent = {name: torch.from_numpy(array.numpy()) for name, array in trained.content.array_records["arrays"].items()}
    own = {**weights, **buffers_of(sent, space.parameters)}
    images, labels = space.split("test")
    assert losses[0] == evaluate(space.model, weights, images, labels, 256)[0]
    assert losses[1] == evaluate(space.model, own, images, labels, 256)[0]
    assert losses[0] != losses[1]
    again = answer("evaluate", space, weights, **{**more, "state-round": 1})
    open_workspace.close()
    assert not again.has_error(), "evaluating removed what the client remembers"


def test_the_per_client_view_judges_each_by_its_own_statistics(tiny: Tiny) -> None:
    config = tiny(bn_stats="local", participation=0.7, rounds=1, per_client_every=1, limit_test=60)
    result = run(config, quiet=True)
    space, state = space_of(config), RunFolder(result.folder).load_state()
    assert 0 in state.client_rounds, "one has not trained and is judged by the server's"
    expected = []
    for client, part in enumerate(space.partition):
        own = {}
        if state.client_rounds[client]:
            own = torch.load(result.folder / "clients" / str(client) / "1.pt", weights_only=True)["statistics"]
            assert own
        hits = correct_mask(space, {**state.weights, **own})
        per_class = [hits[space.dataset.test.labels == label].mean() for label in range(10)]
        expected.append(sum(per_class[label] for label in space.dataset.train.labels[part]) / len(part))
    assert result.history[1]["client_accuracies"] == pytest.approx(expected, abs=1e-6)


IMAGES = torch.randint(0, 256, (30, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pooled_statistics_are_those_of_all_clients_images() -> None:
    # One is brighter than the rest: the variance of the clients' means counts, too.
    images = torch.cat([IMAGES[:9], IMAGES[9:] // 4])
    model, weights = classifier(), dict(classifier().state_dict())
    parts = [images[:7], images[7:9], images[9:]]
    sums = [batch_norm_sums(model, weights, part, batch_size=4, key=(0, c)) for c, part in enumerate(parts)]
    pooled = pooled_statistics(weights, sums)
    inputs = classifier().get_submodule("encoder").get_submodule("conv1")(normalise(images)).detach()
    torch.testing.assert_close(pooled["encoder.bn1.running_mean"], inputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled["encoder.bn1.running_var"], inputs.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert pooled["encoder.bn1.num_batches_tracked"] == 2 + 1 + 6
    parameters = parameter_names(model)
    assert all(torch.equal(pooled[name], weights[name]) for name in parameters)
    assert all(pooled[name].dtype == weights[name].dtype for name in weights)
    assert not any(torch.equal(pooled[name], weights[name]) for name in weights if name not in parameters)


def test_a_pooled_variance_is_never_negative() -> None:
    """By rounding, or for a client whose sums do not fit each other, E[x^2] may be below E[x]^2."""
    weights = {f"bn.running_{what}": torch.ones(1) for what in ("mean", "var")}
    weights["bn.num_batches_tracked"] = torch.tensor(0)
    given = {"bn.sum": torch.tensor([3.0]), "bn.squares": torch.tensor([2.0]), "bn.count": torch.tensor(4.0)}
    pooled = pooled_statistics(weights, [{**given, "batches": torch.tensor(1)}])
    assert (pooled["bn.running_mean"].item(), pooled["bn.running_var"].item()) == (0.75, 0.0)


def test_statistics_of_a_single_batch_are_pytorchs_in_every_layer() -> None:
    weights = dict(classifier().state_dict())
    pooled = pooled_statistics(weights, [batch_norm_sums(classifier(), weights, IMAGES, 64, (0, 0))])
    expected = estimate_statistics(classifier(), weights, IMAGES, batch_size=64)
    for name, tensor in expected.items():
        torch.testing.assert_close(pooled[name], tensor, rtol=1e-4, atol=1e-5)


def test_batches_of_statistics_follow_from_seed_and_client() -> None:
    """Deeper layers see batches that the ones below have normalised: they tell the batches apart."""
    model, weights = classifier(), dict(classifier().state_dict())
    sums = [batch_norm_sums(model, weights, IMAGES, 8, key) for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    first, again, client, seed = (found[max(n for n in found if n.endswith(".squares"))] for found in sums)
    assert torch.equal(first, again)
    assert len({tuple(found.tolist()) for found in (first, client, seed)}) == 3


def test_statistics_to_begin_with_change_nothing_that_is_learned(tiny: Tiny, tmp_path: Path) -> None:
    first, second = (
        final_weights(tiny(output=tmp_path / statistics, init_statistics=statistics, rounds=1))
        for statistics in ("checkpoint", "clients")
    )
    parameters = parameter_names(classifier())
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    assert not torch.equal(first["encoder.bn1.running_var"], second["encoder.bn1.running_var"])


def test_statistics_from_single_images() -> None:
    weights = dict(classifier().state_dict())
    alone, others = (batch_norm_sums(classifier(), weights, part, 64, (0, 0)) for part in (IMAGES[:1], IMAGES[1:]))
    with_and_without = pooled_statistics(weights, [alone, others]), pooled_statistics(weights, [others])
    assert all(torch.equal(with_and_without[0][name], with_and_without[1][name]) for name in weights)
    with pytest.raises(UserError, match="no client has two images"):
        pooled_statistics(weights, [alone])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"norm": "group"}, "--init-statistics goes with --norm batch, not with group"),
        ({"dp": "fixed"}, "--dp does not cover --init-statistics clients"),
    ],
)
def test_statistics_of_clients_that_cannot_be(tiny: Tiny, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(init_statistics="clients", **fields)


@pytest.mark.parametrize(("flag", "value"), [("init-statistics", "clients"), ("norm", "group"), ("bn-stats", "local")])
def test_an_architecture_without_batch_norm_has_no_statistics(tiny: Tiny, flag: str, value: str) -> None:
    config = tiny(arch="convnext_tiny", image_size=32, **{flag.replace("-", "_"): value})
    with pytest.raises(UserError, match=f"--{flag} {value}: --arch convnext_tiny has no BatchNorm"):
        run(config, quiet=True)
    assert not config.folder.exists()


def test_the_server_estimates_statistics_with_the_threads_that_clients_have(tiny: Tiny) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for fields, threads in (({"workers": 2}, 1), ({"engine": "ray"}, 1), ({"workers": 0}, 3)):
            with rounds._threads_of_a_client(tiny(threads=None, **fields)):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_run_that_starts_from_its_clients_statistics(tiny: Tiny) -> None:
    config = tiny(init_statistics="clients", head="centroid", rounds=1)
    result = run(config, quiet=True)
    space = space_of(config)
    weights = weights_of(initial_classifier(config, initial_encoder(config)[0], 10))
    clients = [space.examples_of(client) for client in range(3)]
    sums = [batch_norm_sums(space.model, weights, part[0], 256, (0, c)) for c, part in enumerate(clients)]
    weights = pooled_statistics(weights, sums)
    # The head is made of the features with these statistics.
    expected = centroid_head(weights, [class_sums(space.model, weights, *part, 10, 256) for part in clients])
    record = yaml.safe_load((result.folder / "init.yaml").read_text())
    assert record["init_statistics"] == "clients"
    assert record["head_sha256"] == digest({n: t for n, t in expected.items() if n.startswith("head.")})
    encoder = {n.removeprefix("encoder."): t for n, t in expected.items() if n.startswith("encoder.")}
    assert record["encoder_sha256"] == digest(encoder)
    assert "BatchNorm's statistics of the clients' images" in (result.folder / "log.txt").read_text()
    assert result.history[0]["test_loss"] == pytest.approx(of_splits(space, expected)["test_loss"])
