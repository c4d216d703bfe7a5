"""MOON against its paper's loss, computed directly; and what it is without weight."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.algorithms import fedavg, moon
from federated.client.training import Client, ClientHyperparameters, Problem
from federated.config.run import RunConfig
from federated.weights import weights_of
from tests.federated.conftest import run_quietly

HYPER = ClientHyperparameters(
    lr=0.1, momentum=0.0, weight_decay=0.0, local_epochs=1, batch_size=100, augmentation="none"
)
EXAMPLES = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(20) % 3
TEMPERATURE = 0.3
PROBLEM = Problem(lambda examples, batch, hyper, generator: examples[batch], F.cross_entropy)


def build(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4))
        return nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(4, 3)))


def client(mu: float, previous: nn.Module | None, hyper: ClientHyperparameters = HYPER) -> Client:
    state = {"model": weights_of(previous)} if previous else {}
    options = moon.Options(moon_mu=mu, moon_temperature=TEMPERATURE)
    return Client(build(9), EXAMPLES, TARGETS, hyper, (0, 1, 0), options, state=state, problem=PROBLEM)


def test_a_step_goes_down_the_papers_loss() -> None:
    start, previous, mu = build(1), build(2), 3.0
    update = moon.train_client(client(mu, previous), weights_of(start))

    model, towards = build(1), build(1).eval()
    previous.eval()
    z: Tensor = model.get_submodule("encoder")(EXAMPLES)
    near = torch.exp(F.cosine_similarity(z, towards.get_submodule("encoder")(EXAMPLES).detach()) / TEMPERATURE)
    far = torch.exp(F.cosine_similarity(z, previous.get_submodule("encoder")(EXAMPLES).detach()) / TEMPERATURE)
    contrastive = -torch.log(near / (near + far)).mean()
    supervised = F.cross_entropy(model.get_submodule("head")(z), TARGETS)
    (supervised + mu * contrastive).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(update.weights[name], parameter.detach() - 0.1 * parameter.grad)
    assert update.metrics["train_loss"] == pytest.approx(supervised.item())
    assert all(torch.equal(update.state["model"][name], tensor) for name, tensor in update.weights.items())
    # The anchors are in evaluation mode: their statistics are not this client's batches'.
    torch.testing.assert_close(update.weights["encoder.1.running_mean"], model.state_dict()["encoder.1.running_mean"])


def test_the_first_round_is_fedavgs_and_so_is_one_with_the_global_model_before_it() -> None:
    start = weights_of(build(1))
    plain = fedavg.train_client(client(3.0, None), start)
    first = moon.train_client(client(3.0, None), start)
    assert all(torch.equal(plain.weights[name], first.weights[name]) for name in start)
    same = moon.train_client(client(3.0, build(1)), start)
    assert all(torch.allclose(plain.weights[name], same.weights[name], atol=1e-6) for name in start)


def test_without_weight_is_fedavg_bit_for_bit(tiny: Callable[..., RunConfig], tmp_path) -> None:  # type: ignore[no-untyped-def]
    plain = run_quietly(tiny(output=tmp_path / "fedavg"))
    without = run_quietly(tiny(output=tmp_path / "moon", strategy="moon", moon_mu=0.0))
    assert without == plain
    assert run_quietly(tiny(output=tmp_path / "with", strategy="moon")) != plain
