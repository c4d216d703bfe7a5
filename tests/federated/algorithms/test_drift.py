"""Algorithms against client drift, on heterogeneous least squares where FedAvg with many local steps stays off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.federated.least_squares import Federated, LeastSquares, Vector

Federate = Callable[..., Federated]
PROBLEM = LeastSquares.draw(sizes=(12, 12, 12, 12), dim=2, seed=1)
UNEVEN = LeastSquares.draw(sizes=(6, 12, 18, 24), dim=2, seed=1)
LR, STEPS = 0.3, 8
START = np.zeros(PROBLEM.dim)


def fedavg(problem: LeastSquares, w: Vector, lr: float = LR, steps: int = STEPS, momentum: float = 0.0) -> Vector:
    local = [problem.descend(client, w, lr, steps, momentum) for client in range(problem.clients)]
    return problem.shares @ np.stack(local)


def test_fedavg_is_its_reference_and_stays_off_the_optimum(federate: Federate) -> None:
    path = federate(PROBLEM, local_epochs=STEPS, lr=LR).run(25)
    w = START
    for computed in path[:5]:
        w = fedavg(PROBLEM, w)
        np.testing.assert_allclose(computed, w, rtol=1e-12)
    assert np.linalg.norm(path[-1] - path[-2]) < 1e-9, "not converged"
    assert np.linalg.norm(path[-1] - PROBLEM.optimum()) > 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_scaffold_reaches_the_optimum(federate: Federate, momentum: float) -> None:
    path = federate(PROBLEM, strategy="scaffold", local_epochs=STEPS, lr=0.15, momentum=momentum).run(40)
    np.testing.assert_allclose(path[-1], PROBLEM.optimum(), atol=1e-6)


@pytest.mark.parametrize(("server_lr", "momentum"), [(1.0, 0.0), (0.5, 0.0), (1.0, 0.5)])
def test_scaffold_is_its_reference(federate: Federate, server_lr: float, momentum: float) -> None:
    fields = {"local_epochs": STEPS, "lr": LR, "server_lr": server_lr, "momentum": momentum, "participation": 0.5}
    federation = federate(UNEVEN, strategy="scaffold", seed=3, **fields)
    w, control, own = START, START, [START] * UNEVEN.clients
    # A gradient counts once, and again in each step after it that remembers it.
    worth = sum(momentum**later for step in range(STEPS) for later in range(STEPS - step))
    for computed in federation.run(12):
        local, before = [], control
        for client in _participants(federation, computed):
            offset = before - own[client]
            y = UNEVEN.descend(client, w, LR, STEPS, momentum, lambda _, offset=offset: offset)
            new = own[client] - before + (w - y) / (worth * LR)
            control = control + (new - own[client]) / UNEVEN.clients
            own[client] = new
            local.append(y)
        w = w + server_lr * (np.mean(local, axis=0) - w)
        np.testing.assert_allclose(computed, w, rtol=1e-10)


def _participants(federation: Federated, computed: Vector) -> list[int]:
    """Who trained in the round that ended with these weights."""
    return next(
        result.participants
        for result in federation.rounds
        if np.array_equal(result.state.weights["head.weight"].numpy()[0], computed)
    )


def test_feddyn_reaches_the_optimum(federate: Federate) -> None:
    path = federate(PROBLEM, strategy="feddyn", feddyn_alpha=0.5, lr=LR, local_epochs=20).run(40)
    np.testing.assert_allclose(path[-1], PROBLEM.optimum(), atol=1e-6)


def test_feddyn_is_its_reference(federate: Federate) -> None:
    alpha = 0.3
    federation = federate(
        UNEVEN, strategy="feddyn", feddyn_alpha=alpha, local_epochs=STEPS, lr=LR, participation=0.75, seed=1
    )
    w, h, own = START, START, [START] * UNEVEN.clients
    for computed in federation.run(10):
        chosen, local, start = _participants(federation, computed), [], w
        for client in chosen:
            g = own[client]
            local.append(
                UNEVEN.descend(client, start, LR, STEPS, extra=lambda v, g=g, start=start: -g + alpha * (v - start))
            )
            own[client] = g - alpha * (local[-1] - start)
        h = h - alpha / UNEVEN.clients * sum(y - start for y in local)
        w = np.mean(local, axis=0) - h / alpha
        np.testing.assert_allclose(computed, w, rtol=1e-9)


def test_fedprox_without_weight_is_fedavg_bit_for_bit(federate: Federate) -> None:
    plain = federate(PROBLEM, local_epochs=STEPS, lr=LR).run(5)
    np.testing.assert_array_equal(
        federate(PROBLEM, strategy="fedprox", prox_mu=0.0, local_epochs=STEPS, lr=LR).run(5), plain
    )


def test_fedprox_is_its_reference_and_reaches_its_fixed_point(federate: Federate) -> None:
    mu, steps = 1.0, 35
    path = federate(PROBLEM, strategy="fedprox", prox_mu=mu, lr=LR, local_epochs=steps).run(45)
    w = START
    for computed in path[:3]:
        start = w
        local = [
            PROBLEM.descend(client, start, LR, steps, extra=lambda v, start=start: mu * (v - start))
            for client in range(PROBLEM.clients)
        ]
        w = PROBLEM.shares @ np.stack(local)
        np.testing.assert_allclose(computed, w, rtol=1e-10)
    # Where the exact proximal steps of all clients cancel out (Li et al. 2020, definition 2 with gamma 0).
    inverses = [np.linalg.inv(x.T @ x / len(x) + mu * np.eye(PROBLEM.dim)) for x in PROBLEM.features]
    pulls = [x.T @ y / len(y) for x, y in zip(PROBLEM.features, PROBLEM.targets, strict=True)]
    fixed = np.linalg.solve(
        np.eye(PROBLEM.dim) - mu * np.mean(inverses, axis=0),
        np.mean([inverse @ pull for inverse, pull in zip(inverses, pulls, strict=True)], axis=0),
    )
    np.testing.assert_allclose(path[-1], fixed, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_with_equal_steps_is_fedavg(federate: Federate, momentum: float) -> None:
    uneven = LeastSquares.draw(sizes=(3, 9, 5, 20))
    fields: dict[str, Any] = {"local_epochs": STEPS, "lr": 0.1, "momentum": momentum}
    plain = federate(uneven, **fields).run(5)
    np.testing.assert_allclose(federate(uneven, strategy="fednova", **fields).run(5), plain, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fednova_with_unequal_steps_is_consistent(federate: Federate, momentum: float) -> None:
    """Clients with twice the examples take twice the steps; with a small rate only FedNova is near the optimum."""
    rng = np.random.default_rng(5)
    # Batches of any kind see the same: examples of a client are copies of its first d.
    base = [rng.normal(size=(4, 3)) for _ in range(3)]
    truth = [rng.normal(scale=3, size=3) for _ in range(3)]
    features = [np.tile(x, (copies, 1)) for x, copies in zip(base, (1, 2, 4), strict=True)]
    problem = LeastSquares(features, [x @ w for x, w in zip(features, truth, strict=True)])
    fields: dict[str, Any] = {"batch_size": 4, "lr": 0.06, "momentum": momentum, "local_epochs": 1}
    optimum = problem.optimum(problem.shares)
    off = {
        name: np.linalg.norm(federate(problem, strategy=name, **fields).run(60)[-1] - optimum)
        for name in ("fedavg", "fednova")
    }
    assert off["fednova"] < 0.2 * off["fedavg"], off


def test_fednova_is_its_reference(federate: Federate) -> None:
    """Equation 6 with the steps counted by hand: batches of 4 of 4, 8 and 16 equal examples."""
    sizes, lr, momentum = (4, 8, 16), 0.05, 0.5
    rng = np.random.default_rng(2)
    features = [np.tile(rng.normal(size=3), (size, 1)) for size in sizes]
    problem = LeastSquares(features, [np.full(size, rng.normal()) for size in sizes])
    computed = federate(problem, strategy="fednova", batch_size=4, local_epochs=1, lr=lr, momentum=momentum).run(1)[0]
    changes, coefficients = [], []
    for client, steps in enumerate((1, 2, 4)):
        changes.append(-problem.descend(client, np.zeros(3), lr, steps, momentum))
        # What momentum makes of a gradient: it counts once, and again in each step after it.
        coefficients.append(sum(sum(momentum**later for later in range(steps - step)) for step in range(steps)))
    mean_steps = problem.shares @ np.array(coefficients)
    direction = sum(p * d / a for p, d, a in zip(problem.shares, changes, coefficients, strict=True))
    np.testing.assert_allclose(computed, -mean_steps * direction, rtol=1e-12)
