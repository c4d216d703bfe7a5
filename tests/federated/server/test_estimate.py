from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from federated import algorithms
from federated.config.run import RunConfig, from_yaml
from federated.server.output.progress import duration
from federated.server.run import run
from federated.server.start import estimate
from federated.server.start.estimate import dry_run, work_of
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.encoders import build_classifier, build_encoder

Tiny = Callable[..., RunConfig]


def test_work_is_what_a_run_does(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(rounds=5, eval_every=2, participation=0.7, local_epochs=2, batch_size=4)
    from federated.algorithms import fedavg

    steps = []
    original = fedavg.train_client

    def counting(*arguments: object) -> object:
        update = original(*arguments)  # type: ignore[arg-type]
        steps.append(update.steps)
        return update

    monkeypatch.setattr(fedavg, "train_client", counting)
    rows = run(config, quiet=True).history
    work = work_of(config, [18] * 3, 26)
    assert work.steps == sum(steps)
    assert work.evaluated == 26 * sum(row["test_accuracy"] is not None for row in rows)
    assert work.replies == 2


def test_fine_tuning_is_work(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """After rounds 0, 2, 4 and 5 each of three clients fine-tunes, and its model is evaluated."""
    config = tiny(rounds=5, per_client_every=2, fine_tune_epochs=3, local_epochs=2, batch_size=4)
    from federated.algorithms import fedavg
    from federated.client import fine_tuning

    steps, original = [], fedavg.local_sgd

    def counting(*arguments: Any) -> Any:
        update = original(*arguments)
        steps.append(update.steps)
        return update

    monkeypatch.setattr(fedavg, "local_sgd", counting)
    monkeypatch.setattr(fine_tuning, "local_sgd", counting)
    run(config, quiet=True)
    work = work_of(config, [18] * 3, 26)
    assert work.steps == sum(steps) == 5 * 3 * 2 * 5 + 4 * 3 * 3 * 5
    assert work.evaluated == 6 * 26 + 4 * 3 * 26


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_work_of_many_rounds_is_estimated_at_once(tiny: Tiny, participation: float) -> None:
    config = tiny(rounds=10**8, clients=4, participation=participation, batch_size=4, local_epochs=1)
    assert work_of(config, [8, 16, 8, 16], 26).steps == pytest.approx(10**8 * participation * 12, rel=0.01)


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "moon"])
def test_a_dry_run_tells_and_writes_nothing(tiny: Tiny, strategy: str) -> None:
    config = tiny(strategy=strategy, partition="shards", arch="resnet20")
    text = dry_run(config)
    resolved, _, summary = text.partition("\n\n")
    assert from_yaml(resolved) == replace(config, workers=0)
    assert yaml.safe_load(resolved)["shards_per_client"] == 2
    for words in ("54 training, 6 validation, 20 test", "2 shards a client: 3 clients with 18 to 18", "269,722", " GB"):
        assert words in summary
    assert not config.folder.exists()


def test_what_is_sent_beside_the_model_is_traffic(tiny: Tiny) -> None:
    """SCAFFOLD's control variates have the parameters' shapes, and no BatchNorm statistics."""
    config = tiny(strategy="scaffold", clients=2, rounds=10, participation=0.5)
    model = build_classifier(build_encoder(config.arch, seed=0), 10, seed=0)
    weights, parameters = model.state_dict(), {name for name, _ in model.named_parameters()}
    size, beside = (sum(w[n].nbytes for n in w) for w in (weights, {n: weights[n] for n in parameters}))
    assert beside < size
    for strategy, expected in (("scaffold", (size + beside,) * 2), ("fedavg", (size, size))):
        algorithm = algorithms.load(tiny(strategy=strategy))
        assert algorithm.message_sizes(weights, parameters) == expected
    assert f"traffic    {20 * (size + beside) / 1e9:.2f} GB" in dry_run(config)


def test_statistics_that_the_server_estimates_are_sent_one_way(tiny: Tiny) -> None:
    model = build_classifier(build_encoder("resnet8", seed=0), 10, seed=0)
    weights, parameters = model.state_dict(), {name for name, _ in model.named_parameters()}
    size, back = (sum(w[n].nbytes for n in w) for w in (weights, {n: weights[n] for n in parameters}))
    rounds = 10**9 // size  # so many that the difference shows
    config = tiny(arch="resnet8", clients=2, rounds=rounds, participation=0.5, bn_stats="server")
    assert f"traffic    {rounds * (size + back) / 1e9:.2f} GB" in dry_run(config)
    assert f"{rounds * (size + back) / 1e9:.2f}" != f"{rounds * 2 * size / 1e9:.2f}"


def test_what_never_changes_is_sent_to_each_client_once(tiny: Tiny) -> None:
    config = tiny(train="head", limit_train=None, clients=500, participation=0.01, rounds=1)
    model = build_classifier(build_encoder(config.arch, seed=0), 10, seed=0)
    sizes = {name: tensor.nbytes for name, tensor in model.state_dict().items()}
    once, head = (sum(n for name, n in sizes.items() if name.startswith("head.") is part) for part in (False, True))
    assert f"traffic    {(500 * once + 5 * 2 * head) / 1e9:.2f} GB" in dry_run(config)
    assert 500 * once > 1e8, "it would show if it were missing"


@pytest.mark.parametrize(("strategy", "held"), [("fedavg", 3), ("qfedavg", 7), ("median", 7)])
def test_replies_that_a_strategy_needs_together_are_held_in_memory(tiny: Tiny, strategy: str, held: int) -> None:
    assert f"and {held} replies" in dry_run(tiny(strategy=strategy, clients=7))


def test_a_dry_run_of_years_answers_at_once(tiny: Tiny) -> None:
    assert f"{10**9 * 3 * 3 * 3:,} steps" in dry_run(tiny(local_epochs=10**9))


def test_a_dry_run_leaves_open_what_only_nodes_know(tiny: Tiny) -> None:
    text = dry_run(tiny(partition="nodes", validation=0.0, limit_train=None, arch="resnet20"))
    for words in ("0 training", "20 test", "the nodes' own data: 3 clients, with as many", "269,722", "ms a step here"):
        assert words in text
    assert "steps of" not in text


def test_no_more_clients_train_at_a_time_than_take_part_or_than_there_are_cores(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "cores", lambda: 4)
    texts = {workers: dry_run(tiny(clients=6, participation=0.5, workers=workers)) for workers in (0, 2, 8)}
    assert "at a time" not in texts[0]
    assert "2 clients at a time" in texts[2]
    assert "3 clients at a time" in texts[8]
    assert "a process of" in texts[0]
    assert "3 processes of" in texts[2]
    monkeypatch.setattr(estimate, "cores", lambda: 1)
    assert "at a time" not in dry_run(tiny(clients=6, workers=8))


def test_what_a_run_would_refuse_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="does not exist"):
        dry_run(tiny(init="nowhere.pt"))


def test_durations() -> None:
    assert [duration(seconds) for seconds in (3.2, 600, 36_000)] == ["3 s", "10 min", "10.0 h"]
