from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from federated.client.augmentation import augment
from federated.client.evaluation import evaluate
from federated.client.failures import ClientTimeout
from federated.client.training import (
    Client,
    ClientDiverged,
    ClientHyperparameters,
    Problem,
    _batches,
    effective_steps,
    learning_rate,
    local_sgd,
    normalise,
    steps_in_a_round,
)
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data import sets
from federated.data.partition import make_partition
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from federated.server.start.initialise import initial_classifier, initial_encoder
from federated.weights import load_weights, weights_of
from fps_pretrain.models.encoders import build_classifier, build_encoder

HYPER = ClientHyperparameters(
    lr=0.05, momentum=0.9, weight_decay=0.0005, local_epochs=2, batch_size=8, augmentation="standard"
)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8))
LABELS = torch.arange(20) % 10


@pytest.fixture
def model() -> nn.Module:
    config = RunConfig()
    return initial_classifier(config, initial_encoder(config)[0], 10).to(memory_format=torch.channels_last)


def test_training_is_a_function_of_its_arguments(model: nn.Module) -> None:
    start = weights_of(model)
    kept = {name: tensor.clone() for name, tensor in start.items()}
    first = local_sgd(Client(model, IMAGES, LABELS, HYPER, (0, 1, 2)), start)
    torch.manual_seed(99)  # the global generator plays no part
    again = local_sgd(Client(model, IMAGES, LABELS, HYPER, (0, 1, 2)), start)
    others = [local_sgd(Client(model, IMAGES, LABELS, HYPER, key), start) for key in ((0, 1, 3), (0, 2, 2), (1, 1, 2))]
    assert (first.num_examples, first.steps) == (20, 6)  # 8 + 8 + 4, twice
    assert first.metrics == again.metrics
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, again.weights[name])
        assert torch.equal(start[name], kept[name]), f"{name} was trained in place"
    assert all(not torch.equal(first.weights["head.weight"], other.weights["head.weight"]) for other in others)
    assert first.weights["encoder.bn1.num_batches_tracked"] == 6


def test_layers_draw_from_the_key() -> None:
    """Dropout and stochastic depth, as in torchvision's EfficientNets, know the global generator only."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16 * 16 * 3, 10))
    start, trained = weights_of(model), []
    # All images are one: which batch they are in makes no difference.
    images, labels = IMAGES[:1].expand(20, -1, -1, -1), LABELS[:1].expand(20)
    for server_round, number, ambient in ((1, 2, 1), (1, 2, 99), (1, 3, 1), (2, 2, 1)):
        torch.manual_seed(ambient)
        key = (0, server_round, number)
        update = local_sgd(Client(model, images, labels, replace(HYPER, augmentation="none"), key), start)
        assert torch.random.initial_seed() == ambient
        trained.append(update.weights["2.weight"])
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])
    assert not torch.equal(trained[0], trained[3])


def test_each_epoch_has_batches_of_its_own_and_all_examples_count_in_the_means() -> None:
    """Without steps (a rate of 0) the loss of all epochs is that of the weights they begin with."""
    seen: list[torch.Tensor] = []

    def inputs(images: torch.Tensor, batch: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(batch)
        return normalise(images[batch])

    model = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 10))
    start, hyper = weights_of(model), replace(HYPER, lr=0.0, local_epochs=3)
    update = local_sgd(Client(model, IMAGES, LABELS, hyper, (0, 1, 2), problem=Problem(inputs, F.cross_entropy)), start)
    epochs = [torch.cat(seen[first : first + 3]).tolist() for first in (0, 3, 6)]
    assert len(seen) == update.steps == 9
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    loss, accuracy = evaluate(model, start, IMAGES, LABELS, 20)
    assert update.metrics == pytest.approx({"train_loss": loss, "train_accuracy": accuracy})


def test_training_learns(model: nn.Module) -> None:
    images = IMAGES // 2
    images[::2] += 100
    hyper = ClientHyperparameters(
        lr=0.01, momentum=0.9, weight_decay=0.0, local_epochs=10, batch_size=8, augmentation="none"
    )
    start = weights_of(model)
    trained = local_sgd(Client(model, images, torch.arange(20) % 2, hyper, (0, 1, 0)), start)
    loss, accuracy = evaluate(model, trained.weights, images, torch.arange(20) % 2, 7)
    assert accuracy == 1.0
    assert loss < 0.3


def test_divergence_is_an_error(model: nn.Module) -> None:
    hyper = ClientHyperparameters(
        lr=1e30, momentum=0.9, weight_decay=0.0, local_epochs=1, batch_size=8, augmentation="none"
    )
    with pytest.raises(ClientDiverged, match="lower --lr"):
        local_sgd(Client(model, IMAGES, LABELS, hyper, (0, 1, 0)), weights_of(model))


@pytest.mark.parametrize(
    ("count", "size", "lengths"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (4, 9, [4])]
)
def test_batches_cover_an_epoch_without_a_lonely_last_example(count: int, size: int, lengths: list[int]) -> None:
    batches = list(_batches(count, size, torch.Generator().manual_seed(0)))
    assert steps_in_a_round(count, replace(HYPER, batch_size=size, local_epochs=2)) == 2 * len(lengths)
    assert [len(batch) for batch in batches] == lengths
    assert len(set(torch.cat(batches).tolist())) == sum(lengths)


def test_a_client_with_one_example_trains(model: nn.Module) -> None:
    update = local_sgd(Client(model, IMAGES[:1, :8, :8], LABELS[:1], HYPER, (0, 1, 0)), weights_of(model))
    assert all(torch.isfinite(tensor).all() for tensor in update.weights.values())


def test_augmentation_shifts_and_mirrors_whole_images() -> None:
    images = IMAGES[:1].expand(400, -1, -1, -1)
    batch = torch.arange(400)
    assert torch.equal(augment(images, batch, "none", torch.Generator()), images)
    padded = F.pad(IMAGES[0].permute(2, 0, 1), (2, 2, 2, 2)).permute(1, 2, 0)
    shifted = [padded[y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    for augmentation, views in (("crop", shifted), ("standard", shifted + [view.flip(1) for view in shifted])):
        generator = torch.Generator().manual_seed(0)
        seen = set()
        for image in augment(images, batch, augmentation, generator):
            seen.add([torch.equal(image, view) for view in views].index(True))
        assert seen == set(range(len(views)))


def test_normalise_is_torchvisions() -> None:
    from torchvision.transforms.v2.functional import normalize

    expected = normalize(IMAGES.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    normalised = normalise(IMAGES)
    torch.testing.assert_close(normalised, expected)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_does_not_depend_on_its_batches(model: nn.Module) -> None:
    weights = weights_of(model)
    model.eval()
    with torch.no_grad():
        logits = model(normalise(IMAGES))
    expected = F.cross_entropy(logits, LABELS).item(), (logits.argmax(1) == LABELS).float().mean().item()
    for batch_size in (3, 20, 100):
        assert evaluate(model, weights, IMAGES, LABELS, batch_size) == pytest.approx(expected, rel=1e-5)


def test_learning_rate_schedules() -> None:
    assert [learning_rate(RunConfig(lr=0.2), r) for r in (1, 20)] == [0.2, 0.2]
    cosine = RunConfig(lr=0.2, lr_schedule="cosine", rounds=4)
    expected = [0.1 * (1 + math.cos(math.pi * r / 4)) for r in range(4)]
    assert [learning_rate(cosine, r) for r in (1, 2, 3, 4)] == pytest.approx(expected)


def test_runs_of_a_seed_share_the_head() -> None:
    heads = []
    for width in (1, 1):
        config = RunConfig(width=width, seed=5)
        heads.append(initial_classifier(config, initial_encoder(config)[0], 10).state_dict()["head.weight"])
    other = RunConfig(seed=6)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(
        heads[0], initial_classifier(other, initial_encoder(other)[0], 10).state_dict()["head.weight"]
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_effective_steps_are_the_sum_of_the_gradients_coefficients(momentum: float) -> None:
    parameter = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
    for step in range(5):  # step k has the gradient e_k: what it moved in the end is its coefficient
        parameter.grad = F.one_hot(torch.tensor(step), 5).double()
        optimizer.step()
    assert effective_steps(5, momentum) == pytest.approx(-parameter.sum().item())


def test_gradients_and_loss_can_be_changed_by_an_algorithm(model: nn.Module) -> None:
    start = weights_of(model)
    client = Client(model, IMAGES, LABELS, HYPER, (0, 1, 2))
    plain = local_sgd(client, start)
    bias = dict(model.named_parameters())["head.bias"]

    def adjust() -> None:
        assert bias.grad is not None
        bias.grad.add_(1.0)

    def forward(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model(inputs), bias.sum()

    adjusted, penalised = local_sgd(client, start, adjust=adjust), local_sgd(client, start, forward=forward)
    for update in (adjusted, penalised):
        assert not torch.equal(plain.weights["head.bias"], update.weights["head.bias"])
    torch.testing.assert_close(adjusted.weights, penalised.weights)
    assert penalised.metrics == pytest.approx(adjusted.metrics), "the loss reported is the problem's alone"


def test_a_client_whose_time_is_over_gives_up_between_batches(model: nn.Module) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise ClientTimeout("took longer")

    with pytest.raises(ClientTimeout):
        local_sgd(Client(model, IMAGES, LABELS, HYPER, (0, 1, 2), check=check), weights_of(model))


def test_loading_weights_is_loading_a_state_dict() -> None:
    model, other = build_classifier(build_encoder("resnet20", seed=0), 10, seed=0), build_encoder("resnet20", seed=1)
    weights = {n: t + 1 for n, t in weights_of(model).items()}
    load_weights(model, weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(model, weights_of(other))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_weights(model, {**weights, "more": torch.zeros(1)})


def test_a_run_of_one_client_is_its_local_training(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(clients=1, rounds=2, seed=3, lr_schedule="cosine", augment="standard")
    dataset = sets.load(config)
    space = Workspace.build(config, dataset, make_partition(config, dataset.train.labels))
    weights = weights_of(initial_classifier(config, initial_encoder(config)[0], 10))
    for server_round in (1, 2):
        hyper = ClientHyperparameters.of(config, server_round)
        weights = local_sgd(Client(space.model, *space.examples_of(0), hyper, (3, server_round, 0)), weights).weights
    final = RunFolder(run(config, quiet=True).folder).load_state().weights
    assert all(torch.equal(tensor, weights[name]) for name, tensor in final.items())
