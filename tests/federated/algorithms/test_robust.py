"""median, trimmedmean, krum, multikrum and bulyan against a few lines of NumPy, with clients that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from federated import algorithms
from federated.algorithms.base import Algorithm, Replies, Setting, Update
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError
from tests.federated.least_squares import Federated, LeastSquares, Vector

Federate = Callable[..., Federated]

METRICS = {"train_loss": 1.0, "train_accuracy": 0.5}
HONEST, TRUTH = 6, np.array([1.0, -2.0, 3.0])


def with_liars(liars: int, seed: int = 0) -> LeastSquares:
    """Clients of different sizes that agree up to noise, and one or more that claim something far away."""
    rng = np.random.default_rng(seed)
    features, targets = [], []
    for client in range(HONEST + liars):
        x = rng.normal(size=(4 + 2 * client, 3))
        believed = TRUTH if client < HONEST else rng.normal(scale=1000, size=3)
        features.append(x)
        targets.append(x @ believed + 0.1 * rng.normal(size=len(x)))
    return LeastSquares(features, targets)


def local(problem: LeastSquares) -> Vector:
    """What each client sends in the first round ``(clients, 3)``."""
    return np.stack([problem.descend(client, np.zeros(3), 0.1, 5) for client in range(problem.clients)])


def krum_order(sent: Vector, malicious: int) -> list[int]:
    """Clients from the best Krum score to the worst."""
    distances = ((sent[:, None] - sent[None, :]) ** 2).sum(-1)
    scores = np.sort(distances, axis=1)[:, 1 : len(sent) - malicious - 1].sum(1)
    return [int(client) for client in np.argsort(scores)]


def test_median(federate: Federate) -> None:
    problem = with_liars(2)
    (computed,) = federate(problem, strategy="median").run(1)
    np.testing.assert_allclose(computed, np.median(local(problem), axis=0))


@pytest.mark.parametrize(("trim", "cut"), [(0.2, 1), (0.3, 2)])
def test_trimmed_mean(federate: Federate, trim: float, cut: int) -> None:
    problem = with_liars(2)
    (computed,) = federate(problem, strategy="trimmedmean", trim=trim).run(1)
    np.testing.assert_allclose(computed, np.sort(local(problem), axis=0)[cut:-cut].mean(0))


@pytest.mark.parametrize(("trim", "clients", "cut"), [(0.29, 100, 29), (0.4, 5, 2), (0.1, 10, 1)])
def test_the_share_that_is_cut_off_is_a_whole_number_of_clients(trim: float, clients: int, cut: int) -> None:
    algorithm = algorithms.load(RunConfig(strategy="trimmedmean", trim=trim, clients=clients))
    sent = [Update({"w": torch.tensor([float(number**2)])}, 1, {}) for number in range(clients)]
    setting = Setting(algorithm.options, clients, clients, 0.1, 1)
    found = algorithm.combine({}, {"w": torch.zeros(1)}, Replies.of(sent), setting).params["w"]
    assert float(found) == pytest.approx(np.mean(np.arange(cut, clients - cut) ** 2))


def test_the_median_of_two_is_refused() -> None:
    with pytest.raises(UserError, match="median needs 3 participants"):
        RunConfig(strategy="median", clients=2)


def test_krum(federate: Federate) -> None:
    problem = with_liars(2)
    (computed,) = federate(problem, strategy="krum", malicious=2).run(1)
    sent = local(problem)
    np.testing.assert_allclose(computed, sent[krum_order(sent, 2)[0]])


@pytest.mark.parametrize("selected", [None, 3])
def test_multikrum(federate: Federate, selected: int | None) -> None:
    problem = with_liars(2)
    (computed,) = federate(problem, strategy="multikrum", malicious=2, selected=selected).run(1)
    sent = local(problem)
    best = krum_order(sent, 2)[: selected or 6]
    np.testing.assert_allclose(computed, np.average(sent[best], axis=0, weights=problem.shares[best]))
    assert selected or sorted(best) == list(range(HONEST))


@pytest.mark.parametrize("selected", [None, 8])
def test_multikrum_chooses_among_those_that_answer(selected: int | None) -> None:
    """Of ten that were asked two honest ones fail: the two liars must not be averaged in."""
    config = RunConfig(strategy="multikrum", clients=10, malicious=2, selected=selected)
    algorithm = algorithms.load(config)
    rng = np.random.default_rng(0)
    sent = [rng.normal(0.1, 0.01, 3) for _ in range(6)] + [np.full(3, 1e6)] * 2
    updates = [Update({"w": torch.tensor(values, dtype=torch.float32)}, 10, METRICS) for values in sent]
    setting = Setting(algorithm.options, 10, 10, 0.1, server_round=1)
    combined = algorithm.combine({}, {"w": torch.zeros(3)}, Replies(updates, [10] * 10), setting)
    assert combined.params["w"].abs().max() < 0.2


def hardly_moved(algorithm: Algorithm) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Five rounds of seven clients: what each sent ``(7, N)``, float32, and what the server makes of it ``(N,)``."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=100_000).astype(np.float32) * 3
    for _ in range(5):
        steps = rng.normal(size=(7, 1)) * rng.normal(size=(7, len(start))) * 3e-6
        sent = np.stack([(start + step).astype(np.float32) for step in steps])
        updates = [Update({"w": torch.tensor(values)}, 10, METRICS) for values in sent]
        setting = Setting(algorithm.options, 7, 7, 0.1, server_round=1)
        yield sent, algorithm.combine({}, {"w": torch.tensor(start)}, Replies.of(updates), setting).params["w"]


@pytest.mark.parametrize("fields", [{"strategy": "krum"}, {"strategy": "multikrum", "selected": 1}])
def test_krum_tells_models_apart_that_have_hardly_moved(fields: dict[str, Any]) -> None:
    """In float32 the squared distances, 1e-6, are lost beside the squared norms, 1e6."""
    for sent, combined in hardly_moved(algorithms.load(RunConfig(clients=7, malicious=2, **fields))):
        best = krum_order(sent.astype(np.float64), 2)[0]
        assert combined.dtype == torch.float32
        assert torch.equal(combined, torch.tensor(sent[best]))


def test_bulyan_tells_models_apart_that_have_hardly_moved() -> None:
    for sent, combined in hardly_moved(algorithms.load(RunConfig(strategy="bulyan", clients=7, malicious=1))):
        chosen = sent[krum_order(sent.astype(np.float64), 1)[:5]].astype(np.float64)
        assert np.mean(np.abs(combined.numpy() - mean_of_nearest(chosen)) > 1e-6) < 1e-3


def mean_of_nearest(chosen: np.ndarray) -> np.ndarray:
    """Of five models ``(5, N)`` the mean of the three values nearest to the median, each coordinate by itself."""
    nearest = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0)[:3]
    return np.take_along_axis(chosen, nearest, axis=0).mean(0)


def test_bulyan(federate: Federate) -> None:
    problem = with_liars(1)
    (computed,) = federate(problem, strategy="bulyan", malicious=1).run(1)
    sent = local(problem)
    np.testing.assert_allclose(computed, mean_of_nearest(sent[krum_order(sent, 1)[:5]]))


@pytest.mark.parametrize("strategy", ["median", "trimmedmean", "krum", "multikrum", "bulyan"])
def test_one_liar_does_no_harm(federate: Federate, strategy: str) -> None:
    problem = with_liars(1)
    off = {
        name: float(np.linalg.norm(federate(problem, strategy=name, lr=0.2).run(12)[-1] - TRUTH))
        for name in (strategy, "fedavg")
    }
    assert off[strategy] < 0.5
    assert off["fedavg"] > 50
