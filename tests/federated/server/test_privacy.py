from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from federated import algorithms
from federated.algorithms.base import Replies, ServerState, Setting, Update
from federated.config.run import RunConfig
from federated.server import privacy
from federated.server.cohort import sample_each_client
from federated.server.privacy import CentralPrivacy, Release, clip_, count_noise, epsilon, update_noise
from federated.server.run import RunFailed, run
from fps_pretrain.common.errors import UserError
from tests.federated.conftest import outcome, run_quietly

pytest.importorskip("dp_accounting", reason="dp-accounting is not installed: pip install -e '.[dp]'")

Tiny = Callable[..., RunConfig]


def release(
    updates: list[torch.Tensor], server_round: int = 1, state: ServerState | None = None, **fields: Any
) -> tuple[torch.Tensor, Release]:
    """The mean of clients' changes of a model of ones, as published; clients have 1, 2, 3, ... examples."""
    start = {"w": torch.ones_like(updates[0])}
    sent = [
        Update({"w": start["w"] + update}, number, {"train_loss": float(number), "train_accuracy": 0.5})
        for number, update in enumerate(updates, 1)
    ]
    private = privacy_of(len(updates), **fields)
    released = private.release(state or private.init(), start, server_round)
    config = RunConfig(clients=len(updates))
    algorithm = algorithms.load(config)
    setting = Setting(algorithm.options, len(updates), len(updates), 0.1, server_round)
    replies = released.of(Replies.of(sent))
    assert list(replies.expected_examples) == [1]
    return algorithm.combine({}, start, replies, setting).params["w"] - start["w"], released


def privacy_of(clients: int, secret: int = 7, run_id: str = "", **fields: Any) -> CentralPrivacy:
    return CentralPrivacy.of(
        RunConfig(**{"dp": "fixed", "clients": clients, "dp_noise": 1e-9, **fields}), secret, run_id
    )


def test_clipping_is_of_all_tensors_together() -> None:
    update = {"a": torch.tensor([3.0], dtype=torch.float64), "b": torch.tensor([0.0, 4.0], dtype=torch.float64)}
    assert clip_(update, 10.0) == 5.0
    assert update["b"].tolist() == [0.0, 4.0]
    assert clip_(update, 1.0) == 5.0
    assert [*update["a"].tolist(), *update["b"].tolist()] == pytest.approx([0.6, 0.0, 0.8])


def test_updates_are_clipped_and_count_the_same() -> None:
    updates = [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), torch.tensor([0.0, -2.0])]
    mean, released = release(updates, dp_clip=1.0)
    torch.testing.assert_close(mean, torch.tensor([0.6 + 0.3, 0.8 + 0.4 - 1.0]) / 3)
    assert released.metrics()["dp_clip"] == 1.0


@pytest.mark.parametrize("clip", [0.1, 2.0])
def test_noise_has_the_size_the_accountant_assumes(clip: float) -> None:
    mean, _ = release([torch.zeros(200, 100)] * 4, dp_clip=clip, dp_noise=1.5)
    assert float(mean.std()) == pytest.approx(1.5 * clip / 4, rel=0.02)
    assert abs(float(mean.mean())) < 5 * 1.5 * clip / 4 / math.sqrt(20_000)
    # An adaptive norm spends a part on the count: the updates get more noise.
    mean, _ = release([torch.zeros(200, 100)] * 4, dp="adaptive", dp_clip=clip, dp_noise=1.5)
    assert float(mean.std()) == pytest.approx(update_noise(1.5, 4) * clip / 4, rel=0.02)


def test_the_count_of_updates_below_the_norm_has_noise_of_its_own() -> None:
    private = privacy_of(4, dp="adaptive", dp_noise=1.5, dp_quantile=0.5)
    counts, updates = [], []
    for server_round in range(1, 401):
        moved = math.log(private.next_clip(3.0, 2, 4, server_round) / 3.0)
        counts.append(-moved / privacy.CLIP_RATE * 4)  # 2 of 4 is the quantile: what moves the norm is noise
        change = {"w": torch.zeros(1, dtype=torch.float64)}
        private.add_noise(change, 1.0, server_round)
        updates.append(float(change["w"]))
    assert np.std(counts) == pytest.approx(count_noise(1.5, 4), rel=0.15)
    assert abs(np.mean(counts)) < 5 * 1.5 / 20
    assert abs(np.corrcoef(counts, updates)[0, 1]) < 0.3


def test_noise_is_a_function_of_secret_run_and_round_and_not_of_the_seed() -> None:
    def noise(secret: int, server_round: int, **fields: Any) -> list[float]:
        return release([torch.zeros(50)] * 3, server_round, dp_noise=1.0, secret=secret, **fields)[0].tolist()

    assert noise(1, 2) == noise(1, 2)
    assert noise(1, 2) != noise(2, 2)
    assert noise(1, 2) != noise(1, 3)
    assert noise(1, 2, seed=5) == noise(1, 2)
    assert noise(1, 2, run_id="another") != noise(1, 2)
    assert noise(2**127 + 1, 2) != noise(1, 2)


@pytest.mark.parametrize("first", [0.01, 100.0])
def test_adaptive_clipping_finds_the_quantile(first: float) -> None:
    # A client's update has norm 1, 2, ... 20: 60% of them are below 12.5.
    state = None
    for server_round in range(1, 120):
        _, released = release(
            [torch.full((1,), float(norm)) for norm in range(1, 21)],
            server_round,
            state,
            dp="adaptive",
            dp_quantile=0.6,
            dp_clip=first,
            dp_noise=0.01,
        )
        state = released.state()
    assert state is not None
    assert 11 <= float(state["privacy"]["clip"]) <= 14


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
    assert 0.7 * loose < epsilon(1, noise, 1.0, delta) < loose


def test_every_release_is_counted() -> None:
    private, state = privacy_of(3, dp_noise=1.0), None
    for server_round in (1, 2, 3):
        _, released = release([torch.zeros(2)] * 3, server_round, state, dp_noise=1.0)
        state = released.state()
        assert released.metrics()["dp_epsilon"] == epsilon(server_round, 1.0, 1.0, private.delta)


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_epsilon_of_sampled_clients_is_no_less_than_is_true(noise: float) -> None:
    """One release in which a client takes part with probability 0.1, or is not there: the larger of both directions.

    The sum is N(0, noise^2) without the client, and with it 0.9 N(0, noise^2) + 0.1 N(1, noise^2), in units of the
    clipping norm.
    """
    delta, share = 1e-5, 0.1
    x = np.linspace(-12 * noise, 12 * noise + 1, 400_001)
    without = norm.pdf(x, 0, noise)
    with_it = (1 - share) * without + share * norm.pdf(x, 1, noise)

    def excess(spent: float) -> float:
        worse = max(np.maximum(p - math.exp(spent) * q, 0).sum() for p, q in ((with_it, without), (without, with_it)))
        return worse * (x[1] - x[0]) - delta

    true = brentq(excess, 0, 50)
    assert true <= epsilon(1, noise, share, delta) < 2 * true


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_and_sampling(caplog: pytest.LogCaptureFixture) -> None:
    assert epsilon(0, 1.0, 1.0, 1e-5) == 0
    assert epsilon(1, 1.0, 1.0, 1e-5) < epsilon(2, 1.0, 1.0, 1e-5) < epsilon(100, 1.0, 1.0, 1e-5)
    assert epsilon(10, 2.0, 1.0, 1e-5) < epsilon(10, 1.0, 1.0, 1e-5)
    assert epsilon(10, 1.0, 0.001, 1e-5) < epsilon(10, 1.0, 0.1, 1e-5) < 0.5 * epsilon(10, 1.0, 1.0, 1e-5)
    assert epsilon(100, 1.0, 0.01, 1e-5) == pytest.approx(1.21, abs=0.01)  # docs/privacy.md
    assert epsilon(100, 1.0, 1.0, 1e-5) == pytest.approx(96.1, abs=0.1)
    assert not caplog.records


def test_the_sum_is_divided_by_the_number_of_clients_to_be_expected() -> None:
    """Whether another client is there must not change what one contributes."""
    private = privacy_of(10, participation=0.4)
    start = {"w": torch.zeros(2)}
    for there in (0, 1, 3, 9):
        released = private.release(private.init(), start, 1)
        (update,) = released.of(Replies.of([Update({"w": torch.tensor([0.5, 0.0])}, 7, {})] * there))
        torch.testing.assert_close(update.weights["w"], torch.tensor([there * 0.5 / 4, 0.0]), atol=1e-6, rtol=0)


def test_a_client_that_is_not_there_counts_half_below_the_norm() -> None:
    private = privacy_of(10, participation=0.4, dp="adaptive", dp_quantile=0.5)
    nobody = private.next_clip(3.0, 0, 0, 1)  # moved by noise alone, as a half is what is aimed at
    assert nobody == pytest.approx(3.0, rel=0.2)
    for below, count, share in ((4, 4, 0.5), (1, 1, 0.125), (0, 1, -0.125), (2, 4, 0)):
        assert private.next_clip(3.0, below, count, 1) == pytest.approx(nobody * math.exp(-privacy.CLIP_RATE * share))


def test_each_client_is_drawn_by_itself() -> None:
    private = privacy_of(50, participation=0.2)
    rounds = [private.sample_clients(number) for number in range(1, 2001)]
    assert rounds[:5] == [sample_each_client(private.key, number, 50, 0.2) for number in range(1, 6)]
    there = np.zeros((2000, 50))
    for row, clients in zip(there, rounds, strict=True):
        assert clients == sorted(set(clients))
        row[clients] = 1
    assert there.mean() == pytest.approx(0.2, abs=0.01)
    assert there.sum(axis=1).var() == pytest.approx(50 * 0.2 * 0.8, rel=0.1)  # binomial; of a fixed number it is 0
    assert np.abs(np.corrcoef(there.T) - np.eye(50)).max() < 0.1
    assert privacy_of(5).sample_clients(1) == [0, 1, 2, 3, 4]


def test_a_round_in_which_nobody_takes_part_is_noise(tiny: Tiny) -> None:
    config = tiny(dp="fixed", dp_secret=5, clients=3, participation=0.34, rounds=6, strategy="fedadam")
    rows = run(config, quiet=True).history[1:]
    empty = [row for row in rows if not row["participants"]]
    assert 0 < len(empty) < len(rows), "the secret of this test draws some"
    for row in empty:
        assert row["train_loss"] is None
        assert row["clients"]["train_loss"] == []
    assert len({row["test_loss"] for row in rows}) == 6, "the model moves in each round"


def test_a_private_run_keeps_count_and_leaves_buffers_alone(tiny: Tiny, tmp_path: Path) -> None:
    # Enormous noise would show in any buffer it reached.
    result = run(tiny(dp="fixed", dp_noise=1e3, rounds=1), quiet=True)
    weights = {name: tensor for name, tensor in torch_weights(result.folder).items()}
    assert result.history[1]["dp_epsilon"] > 0
    assert weights["encoder.bn1.num_batches_tracked"].dtype == torch.int64
    variances = [tensor for name, tensor in weights.items() if name.endswith("running_var")]
    assert all(float(tensor.min()) >= 0 for tensor in variances), "noise has reached a variance"
    assert float(weights["encoder.bn1.weight"].abs().max()) > 100


def test_noise_and_who_takes_part_follow_from_secret_run_and_round_and_all_count_the_same(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, original = [], CentralPrivacy.add_noise

    def add_noise(self: CentralPrivacy, change: Any, clip: float, server_round: int) -> None:
        keys.append((self.key, server_round))
        original(self, change, clip, server_round)

    monkeypatch.setattr(CentralPrivacy, "add_noise", add_noise)
    fields = {
        "dp": "fixed",
        "dp_secret": 5,
        "clients": 6,
        "participation": 0.5,
        "rounds": 3,
        "partition": "size",
        "seed": 1,
    }
    rows = run(tiny(**fields), quiet=True).history[1:]
    key = keys[0][0]
    assert keys == [(key, 1), (key, 2), (key, 3)]
    assert [row["participants"] for row in rows] == [sample_each_client(key, number, 6, 0.5) for number in (1, 2, 3)]
    for row in rows:
        assert row["train_loss"] == pytest.approx(np.mean(row["clients"]["train_loss"]))
    other = run(tiny(**fields, dp_delta=1e-3, output=tmp_path / "other"), quiet=True).history[1:]
    assert other[-1]["dp_epsilon"] < rows[-1]["dp_epsilon"]
    assert len({key for key, _ in keys}) == 2, "the same secret, and another run"


def test_a_private_run_does_not_say_which_data_it_has(tiny: Tiny) -> None:
    folder = run(tiny(dp="fixed", rounds=1), quiet=True).folder
    assert "sha256: " in (folder / "init.yaml").read_text()
    assert "data_sha256" not in (folder / "init.yaml").read_text()


def torch_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_private_run_resumes_exactly(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    fields: dict[str, Any] = {
        "dp": "adaptive",
        "dp_noise": 0.2,
        "strategy": strategy,
        "rounds": 4,
        "participation": 0.7,
    }
    fields["dp_secret"] = 5
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    original = CentralPrivacy.release

    def failing(self: CentralPrivacy, state: Any, params: Any, server_round: int) -> Release:
        if server_round == 3:
            raise RunFailed("power cut")
        return original(self, state, params, server_round)

    with monkeypatch.context() as patch:
        patch.setattr(CentralPrivacy, "release", failing)
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
        (
            {"dp": "fixed", "strategy": "scaffold"},
            "--dp goes with --strategy fedadagrad, .*, not with scaffold",
        ),
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
    with pytest.raises(UserError, match=r"^--dp needs dp-accounting: pip install -e '\.\[dp\]'$"):
        run(tiny(dp="fixed"), quiet=True)
    assert not tiny().folder.exists()
