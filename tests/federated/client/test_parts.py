"""Which part of a model is trained, shared and kept, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from federated.client.batch_norm import estimate_statistics
from federated.client.features import FeatureCache, encode
from federated.client.parts import HEAD, Parts, is_frozen
from federated.client.training import Client, ClientHyperparameters, local_sgd
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data import sets
from federated.data.partition import make_partition
from federated.server.start.initialise import initial_classifier, initial_encoder
from federated.weights import weights_of
from fps_pretrain.images.pixels import normalise
from fps_pretrain.models.encoders import build_classifier, build_encoder

Tiny = Callable[..., RunConfig]


def space_of(config: RunConfig) -> Workspace:
    dataset = sets.load(config)
    return Workspace.build(config, dataset, make_partition(config, dataset.train.labels))


def start_of(config: RunConfig) -> dict[str, torch.Tensor]:
    return weights_of(initial_classifier(config, initial_encoder(config)[0], 10))


@pytest.mark.parametrize(
    ("arch", "stage"), [("resnet20", "layer3"), ("resnet56", "layer3"), ("resnet18", "layer4"), ("resnet50", "layer4")]
)
def test_the_last_block_is_the_last_stage_and_the_head(arch: str, stage: str) -> None:
    model = build_classifier(build_encoder(arch, seed=0), 10, seed=0)
    parts = Parts.of(model, RunConfig(train="last-block", arch=arch))
    assert parts.parameters | parts.buffers == {
        name for name in model.state_dict() if name.startswith((f"encoder.{stage}.", HEAD))
    }
    after = model.get_submodule("encoder").get_submodule(stage)
    assert parts.buffers == {f"encoder.{stage}.{name}" for name, _ in after.named_buffers()}
    assert not parts.kept


def test_everything_is_shared_unless_something_is_kept() -> None:
    model = build_classifier(build_encoder("resnet20", seed=0), 10, seed=0)
    weights = model.state_dict()
    assert Parts.of(model, RunConfig()).fixed(weights) == {}
    for train in ("all", "last-block"):
        parts = Parts.of(model, RunConfig(train=train, personal="head"))
        assert parts.kept == {"head.weight", "head.bias"}
        assert not parts.kept & set(parts.shared(weights))
        assert parts.shared(weights).keys() | parts.fixed(weights).keys() == weights.keys()


def test_what_is_frozen_neither_learns_nor_counts_batches(tiny: Tiny) -> None:
    config = tiny(train="last-block")
    space, start = space_of(config), start_of(config)
    images, labels = space.examples_of(0)
    client = Client(space.model, images, labels, ClientHyperparameters.of(config, 1), (0, 1, 0))
    trained = local_sgd(client, start).weights
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert changed == space.parts.parameters | space.parts.buffers
    encoder = space.model.get_submodule("encoder")
    assert not encoder.get_submodule("bn1").training
    assert is_frozen(encoder.get_submodule("layer2"))
    assert encoder.get_submodule("layer3").training


def test_the_server_estimates_statistics_of_the_last_block_alone(tiny: Tiny) -> None:
    config = tiny(train="last-block", bn_stats="server")
    space, start = space_of(config), start_of(config)
    estimated = space.estimate_statistics(start)
    assert {name for name in start if not torch.equal(start[name], estimated[name])} == space.parts.buffers


def test_the_server_estimates_statistics_from_its_validation_images(tiny: Tiny) -> None:
    """Those of the test images would be a look at what the model is judged by."""
    config = tiny(bn_stats="server", validation=0.3)
    space, start = space_of(config), start_of(config)
    images = torch.from_numpy(space.dataset.validation.images)
    expected = {**start, **estimate_statistics(space.model, start, images, config.eval_batch_size)}
    found = space.estimate_statistics(start)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(found["encoder.bn1.running_mean"], start["encoder.bn1.running_mean"])


def test_features_are_those_of_the_model_in_evaluation_mode(tiny: Tiny) -> None:
    config = tiny(train="head", eval_batch_size=7)
    space, start = space_of(config), start_of(config)
    images, labels = space.examples_of(1)
    task = space.task_of(1, start)
    assert torch.equal(task.targets, labels)
    assert set(task.weights) == {"head.weight", "head.bias"}
    space.model.load_state_dict(start)
    space.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(task.model(task.examples), space.model(normalise(images)))


def test_a_head_trained_on_features_is_one_trained_behind_the_frozen_encoder(tiny: Tiny) -> None:
    config = tiny(train="head", augment="none")
    space, start = space_of(config), start_of(config)
    hyper, (images, labels) = ClientHyperparameters.of(config, 1), space.examples_of(0)
    whole = local_sgd(Client(space.model, images, labels, hyper, (0, 1, 0)), start)
    task = space.task_of(0, start)
    client = Client(task.model, task.examples, task.targets, hyper, (0, 1, 0), problem=task.problem)
    head = local_sgd(client, task.weights)
    for name, tensor in head.weights.items():
        torch.testing.assert_close(tensor, whole.weights[name])
        assert not torch.equal(tensor, start[name])


def test_the_feature_cache_is_given_in_megabytes(tiny: Tiny) -> None:
    config = tiny(train="head", feature_cache=1)  # those of a client are 5 kilobytes
    space = space_of(config)
    space.task_of(0, start_of(config))
    assert 1000 < space.features.size < 10**6
    space = space_of(replace(config, feature_cache=0))
    space.task_of(0, start_of(config))
    assert space.features.size == 0


def count_calls(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], torch.Tensor], list[int]]:
    calls: list[int] = []

    def counted() -> torch.Tensor:
        calls.append(1)
        return compute()

    return counted, calls


def test_features_are_computed_once_as_far_as_they_fit() -> None:
    weights = {"encoder.w": torch.zeros(2), "head.w": torch.zeros(1)}
    compute, calls = count_calls(lambda: torch.ones(10, 3))  # 120 bytes
    cache = FeatureCache(limit=250)
    for _ in range(2):
        for client in range(3):
            assert torch.equal(cache.get(client, weights, compute), torch.ones(10, 3))
    assert len(calls) == 3 + 1  # the third does not fit
    assert cache.size == 240
    cache.get(0, {**weights, "head.w": torch.ones(1)}, compute)
    assert len(calls) == 4  # another head has the same features
    cache.get(0, {**weights, "encoder.w": torch.ones(2)}, compute)
    assert len(calls) == 5
    assert cache.size == 120  # those of the other encoder are forgotten


def test_features_do_not_depend_on_the_mode_that_the_model_was_left_in() -> None:
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48)))
    model.add_module("head", nn.Linear(48, 2))
    weights = weights_of(model)
    images = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    model.train()
    first = encode(model, weights, images, batch_size=2)
    assert torch.equal(first, encode(model, weights, images, batch_size=2))
    assert torch.equal(weights["encoder.1.running_mean"], model.state_dict()["encoder.1.running_mean"])
