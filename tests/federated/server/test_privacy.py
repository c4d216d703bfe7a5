from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.messages import from_record
from federated.server import privacy
from federated.server.privacy import CentralPrivacy, clip_, count_noise, epsilon, update_noise
from federated.server.rounds import RunFailed, run
from fps_pretrain.common.errors import UserError
from tests.federated.conftest import outcome, run_quietly

pytest.importorskip("dp_accounting", reason="dp-accounting is not installed: pip install 'fps-federated[dp]'")

Tiny = Callable[..., RunConfig]


def aggregate(
    config: RunConfig, updates: list[torch.Tensor], server_round: int = 1, strategy: CentralPrivacy | None = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """What clients' updates of a model of ones become; clients have 1, 2, 3, ... examples."""
    grid = InProcessGrid(client_app, len(updates))
    strategy = strategy or CentralPrivacy(FedAvg(), config)
    start = torch.ones_like(updates[0])
    messages = list(strategy.configure_train(server_round, ArrayRecord({"w": start}), ConfigRecord(), grid))
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"w": start + update}),
                    "metrics": MetricRecord({"num-examples": number, "train_loss": float(number)}),
                }
            ),
            reply_to=message,
        )
        for number, (message, update) in enumerate(zip(messages, updates, strict=True), 1)
    ]
    arrays, metrics = strategy.aggregate_train(server_round, replies)
    assert arrays is not None
    return from_record(arrays)["w"] - start, dict(metrics or {})


def private(**fields: Any) -> RunConfig:
    return RunConfig(**{"dp": "fixed", "clients": 3, "dp_noise": 1e-9, **fields})


def test_clipping_is_of_all_tensors_together() -> None:
    update = {"a": torch.tensor([3.0], dtype=torch.float64), "b": torch.tensor([0.0, 4.0], dtype=torch.float64)}
    assert clip_(update, 10.0) == 5.0
    assert update["b"].tolist() == [0.0, 4.0]
    assert clip_(update, 1.0) == 5.0
    assert [*update["a"].tolist(), *update["b"].tolist()] == pytest.approx([0.6, 0.0, 0.8])


def test_updates_are_clipped_and_count_the_same() -> None:
    updates = [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), torch.tensor([0.0, -2.0])]
    mean, metrics = aggregate(private(dp_clip=1.0), updates)
    torch.testing.assert_close(mean, torch.tensor([0.6 + 0.3, 0.8 + 0.4 - 1.0]) / 3)
    assert metrics["dp_clip"] == 1.0


@pytest.mark.parametrize("clip", [0.1, 2.0])
def test_noise_has_the_size_the_accountant_assumes(clip: float) -> None:
    updates = [torch.zeros(200, 100)] * 4
    mean, _ = aggregate(private(clients=4, dp_clip=clip, dp_noise=1.5), updates)
    assert float(mean.std()) == pytest.approx(1.5 * clip / 4, rel=0.02)
    assert abs(float(mean.mean())) < 5 * 1.5 * clip / 4 / math.sqrt(20_000)


def test_noise_is_a_function_of_seed_and_round() -> None:
    updates = [torch.zeros(50)] * 3

    def noise(seed: int, server_round: int) -> list[float]:
        return aggregate(private(seed=seed, dp_noise=1.0), updates, server_round)[0].tolist()

    assert noise(1, 2) == noise(1, 2)
    assert noise(1, 2) != noise(2, 2)
    assert noise(1, 2) != noise(1, 3)


@pytest.mark.parametrize("first", [0.01, 100.0])
def test_adaptive_clipping_finds_the_quantile(first: float) -> None:
    # A client's update has norm 1, 2, ... 20: 60% of them are below 12.5.
    config = private(dp="adaptive", dp_quantile=0.6, dp_clip=first, clients=20, dp_noise=0.01)
    strategy = CentralPrivacy(FedAvg(), config)
    updates = [torch.full((1,), float(norm)) for norm in range(1, 21)]
    for server_round in range(1, 120):
        aggregate(config, updates, server_round, strategy)
    assert 11 <= strategy.clip <= 14


def test_adaptive_clipping_splits_the_noise() -> None:
    # Andrew et al. 2021, theorem 1: together both cost what the noise multiplier says.
    for noise, participants in ((1.0, 100), (0.5, 1000), (2.0, 10)):
        updates, count = update_noise(noise, participants), count_noise(noise, participants)
        assert (updates**-2 + (2 * count) ** -2) ** -0.5 == pytest.approx(noise)
        assert updates > noise


def test_epsilon_of_one_release_is_that_of_renyi_divergence() -> None:
    # Mironov 2017, "Renyi Differential Privacy", proposition 3 and corollary 3; the accountant's conversion is tighter.
    noise, delta = 2.0, 1e-5
    loose = min(a / (2 * noise**2) + math.log(1 / delta) / (a - 1) for a in np.arange(1.1, 100, 0.1))
    assert 0.7 * loose < epsilon(1, noise, 10, 10, delta) < loose


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_and_sampling() -> None:
    assert epsilon(0, 1.0, 10, 10, 1e-5) == 0
    assert epsilon(1, 1.0, 10, 10, 1e-5) < epsilon(2, 1.0, 10, 10, 1e-5) < epsilon(100, 1.0, 10, 10, 1e-5)
    assert epsilon(10, 2.0, 10, 10, 1e-5) < epsilon(10, 1.0, 10, 10, 1e-5)
    assert epsilon(10, 1.0, 10, 10_000, 1e-5) < 0.2 * epsilon(10, 1.0, 10, 10, 1e-5)


def test_a_private_run_keeps_count_and_leaves_buffers_alone(tiny: Tiny, tmp_path: Path) -> None:
    # Enormous noise would show in any buffer it reached.
    result = run(tiny(dp="fixed", dp_noise=1e4, rounds=1), quiet=True)
    weights = {name: tensor for name, tensor in torch_weights(result.folder).items()}
    assert result.history[1]["dp_epsilon"] > 0
    assert weights["encoder.bn1.num_batches_tracked"].dtype == torch.int64
    assert float(weights["encoder.bn1.running_var"].abs().max()) < 100
    assert float(weights["encoder.bn1.weight"].abs().max()) > 100


def torch_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_private_run_resumes_exactly(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    fields = {"dp": "adaptive", "dp_noise": 0.2, "strategy": strategy, "rounds": 4, "participation": 0.7}
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    original = CentralPrivacy.aggregate_train

    def failing(self: CentralPrivacy, server_round: int, replies: Any) -> Any:
        if server_round == 3:
            raise RunFailed("power cut")
        return original(self, server_round, replies)

    with monkeypatch.context() as patch:
        patch.setattr(CentralPrivacy, "aggregate_train", failing)
        with pytest.raises(RunFailed):
            run(tiny(**fields), quiet=True)
    resumed = run(tiny(**fields), quiet=True)
    assert resumed.resumed_from == 2
    assert outcome(resumed.folder) == whole
    epsilons = [row["dp_epsilon"] for row in resumed.history[1:]]
    assert epsilons == sorted(epsilons)
    assert len({row["dp_clip"] for row in resumed.history[1:]}) == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dp": "fixed", "strategy": "scaffold"}, "--dp goes with --strategy fedavg"),
        ({"dp": "fixed", "head": "centroid"}, "--dp does not cover --head centroid"),
        ({"dp": "fixed", "dp_noise": 0.0}, "--dp-noise must satisfy"),
        ({"dp": "fixed", "dp_delta": 1.0}, "--dp-delta must satisfy"),
        ({"dp": "fixed", "dp_quantile": 0.4}, "--dp-quantile goes with --dp adaptive"),
    ],
)
def test_what_cannot_be_private_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RunConfig(**fields)


def test_without_the_accountant(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(UserError, match=r"pip install 'fps-federated\[dp\]'"):
        privacy.check_installed()
    with pytest.raises(UserError, match="dp-accounting"):
        run(tiny(dp="fixed"), quiet=True)
    assert not tiny().folder.exists()
