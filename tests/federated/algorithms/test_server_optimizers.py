"""fedavgm, fedadam, fedyogi and fedadagrad against a few lines of NumPy, and q-FedAvg against its paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from federated.algorithms import qfedavg
from federated.client.evaluation import evaluate
from federated.client.training import Client, ClientHyperparameters
from federated.weights import weights_of
from fps_pretrain.models.encoders import build_classifier, build_encoder
from tests.federated.least_squares import Federated, LeastSquares, Vector

Federate = Callable[..., Federated]
PROBLEM = LeastSquares.draw(sizes=(8, 4, 10), dim=3)
FIELDS: dict[str, Any] = {"local_epochs": 4, "lr": 0.1}


def mean_change(w: Vector) -> Vector:
    local = [PROBLEM.descend(client, w, FIELDS["lr"], FIELDS["local_epochs"]) for client in range(PROBLEM.clients)]
    return PROBLEM.shares @ np.stack(local) - w


def fedavgm(lr: float, momentum: float) -> Iterator[Vector]:
    w, velocity = np.zeros(3), np.zeros(3)
    while True:
        velocity = momentum * velocity - mean_change(w)
        w = w - lr * velocity
        yield w


def adaptive(name: str, lr: float, beta1: float, beta2: float, tau: float) -> Iterator[Vector]:
    w, m, v, server_round = np.zeros(3), np.zeros(3), np.zeros(3), 0
    while True:
        server_round += 1
        d = mean_change(w)
        m = beta1 * m + (1 - beta1) * d
        step = lr
        if name == "fedadagrad":
            v = v + d**2
        elif name == "fedyogi":
            v = v - (1 - beta2) * d**2 * np.sign(v - d**2)
        else:
            v = beta2 * v + (1 - beta2) * d**2
            step = lr * np.sqrt(1 - beta2 ** (server_round + 1)) / (1 - beta1 ** (server_round + 1))
        w = w + step * m / (np.sqrt(v) + tau)
        yield w


@pytest.mark.parametrize(
    ("strategy", "options", "reference"),
    [
        ("fedavgm", {}, fedavgm(1.0, 0.9)),
        ("fedavgm", {"server_lr": 0.5, "server_momentum": 0.0}, fedavgm(0.5, 0.0)),
        ("fedadam", {}, adaptive("fedadam", 0.01, 0.9, 0.99, 0.001)),
        (
            "fedadam",
            {"server_lr": 0.3, "beta1": 0.5, "beta2": 0.8, "tau": 0.1},
            adaptive("fedadam", 0.3, 0.5, 0.8, 0.1),
        ),
        ("fedyogi", {"server_lr": 0.2, "beta1": 0.5}, adaptive("fedyogi", 0.2, 0.5, 0.99, 0.001)),
        ("fedyogi", {"server_lr": 0.2, "beta2": 0.8, "tau": 0.1}, adaptive("fedyogi", 0.2, 0.9, 0.8, 0.1)),
        ("fedadagrad", {"server_lr": 0.2, "tau": 0.1}, adaptive("fedadagrad", 0.2, 0.0, 0.0, 0.1)),
    ],
)
def test_is_its_reference(
    federate: Federate, strategy: str, options: dict[str, Any], reference: Iterator[Vector]
) -> None:
    path = federate(PROBLEM, strategy=strategy, **options, **FIELDS).run(8)
    # Flower keeps Adam's step in float64 and the reference does the same: only the order of operations differs.
    for computed, expected in zip(path, reference, strict=False):
        np.testing.assert_allclose(computed, expected, rtol=1e-10)


def test_server_momentum_of_nothing_is_fedavg(federate: Federate) -> None:
    plain = federate(PROBLEM, **FIELDS).run(4)
    momentum = federate(PROBLEM, strategy="fedavgm", server_momentum=0.0, **FIELDS).run(4)
    np.testing.assert_array_equal(momentum, plain)


def test_qfedavg_without_q_is_fedavg_of_equal_clients(federate: Federate) -> None:
    equal = LeastSquares.draw(sizes=(6, 6, 6))
    plain = federate(equal, **FIELDS).run(5)
    np.testing.assert_allclose(federate(equal, strategy="qfedavg", q=0.0, **FIELDS).run(5), plain, rtol=1e-10)


@pytest.mark.parametrize("rate", [None, 0.05])
def test_qfedavg_is_its_reference(federate: Federate, rate: float | None) -> None:
    q, lipschitz = 1.5, 1 / (rate or FIELDS["lr"])
    path = federate(PROBLEM, strategy="qfedavg", q=q, q_lr=rate, **FIELDS).run(5)
    w = np.zeros(3)
    for computed in path:
        numerator, denominator = np.zeros(3), 0.0
        for client in range(PROBLEM.clients):
            loss = PROBLEM.loss(client, w)
            change = lipschitz * (w - PROBLEM.descend(client, w, FIELDS["lr"], FIELDS["local_epochs"]))
            numerator += loss**q * change
            denominator += q * loss ** (q - 1) * change @ change + lipschitz * loss**q
        w = w - numerator / denominator
        np.testing.assert_allclose(computed, w, rtol=1e-6)  # Flower adds 1e-10 to a loss


def test_qfedavgs_loss_is_that_of_the_model_in_evaluation_mode_on_plain_images() -> None:
    images = torch.randint(0, 256, (300, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, hyper = torch.arange(300) % 3, ClientHyperparameters(0.1, 0.9, 0.0, 1, 100, "standard")
    model = build_classifier(build_encoder("resnet8", seed=0), 3, seed=0)
    start = weights_of(model)
    update = qfedavg.train_client(Client(model, images, labels, hyper, (0, 1, 0)), start)
    loss, _ = evaluate(model, start, images, labels, 100)
    assert update.metrics["initial_loss"] == pytest.approx(loss, rel=1e-5)


def test_qfedavg_is_fairer(federate: Federate) -> None:
    spread = {}
    for q in (0.0, 5.0):
        w = federate(PROBLEM, strategy="qfedavg", q=q, **FIELDS).run(60)[-1]
        losses = [PROBLEM.loss(client, w) for client in range(PROBLEM.clients)]
        spread[q] = max(losses) - min(losses)
    assert spread[5.0] < 0.5 * spread[0.0]
