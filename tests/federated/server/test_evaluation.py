from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Error, MetricRecord, RecordDict
from PIL import Image

from federated.algorithms.base import Update
from federated.client.evaluation import accuracies_at, client_accuracies
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.data.sets import Dataset, Split
from federated.engines.inprocess import InProcessGrid
from federated.server.client_metrics import reported, summarise
from federated.server.evaluation import Evaluator
from federated.server.replies import details_of
from federated.server.run import run


def split(labels: list[int], user_ids: list[str] | None = None) -> Split:
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    return Split(images, np.array(labels), None if user_ids is None else np.array(user_ids))


def test_clients_are_judged_on_their_own_classes() -> None:
    # Class 0 is right in 3 of 4, class 1 in 1 of 2, class 2 is not tested.
    test = split([0, 0, 0, 0, 1, 1])
    hits = np.array([True, True, True, False, True, False])
    train = split([0, 0, 0, 1, 2, 2])
    partition = [np.array([0, 1]), np.array([2, 3]), np.array([3, 4, 5])]
    accuracies = client_accuracies(hits, test, train, partition, 3)
    assert accuracies.tolist() == [0.75, 0.5 * 0.75 + 0.5 * 0.5, 0.5]


def test_a_client_whose_classes_are_not_tested_is_not_judged() -> None:
    accuracies = client_accuracies(np.array([True]), split([0]), split([0, 2]), [np.array([0]), np.array([1])], 3)
    assert accuracies[0] == 1
    assert np.isnan(accuracies[1])
    row = summarise(accuracies)
    assert (row["client_accuracy_mean"], row["client_accuracies"]) == (1, [1, None])


def test_with_one_client_it_is_the_test_accuracy_of_a_balanced_set() -> None:
    labels = np.repeat(np.arange(5), 20)
    hits = np.random.default_rng(0).random(100) < 0.6
    (accuracy,) = client_accuracies(hits, split(labels.tolist()), split(labels.tolist()), [np.arange(100)], 5)
    assert accuracy == pytest.approx(hits.mean())


def test_clients_are_judged_on_examples_of_their_own_makers() -> None:
    test = split([0, 0, 0, 0], ["ada", "ada", "ben", "cleo"])
    hits = np.array([True, False, False, True])
    train = split([0, 0, 0], ["ada", "ben", "dan"])
    partition = [np.array([0, 1]), np.array([1]), np.array([2])]
    accuracies = client_accuracies(hits, test, train, partition, 1)
    assert accuracies.tolist() == pytest.approx([1 / 3, 0.0, 0.5])  # dan is in no test: by class


def test_folders_below_a_class_are_nobodys_unless_the_partition_says_so() -> None:
    found = Dataset(split([0, 1], ["images"] * 2), split([]), split([0, 1], ["images"] * 2), ("a", "b"))
    for partition, accuracies in (("pathological", [1, 0]), ("natural", [0.5, 0.5])):
        config = SimpleNamespace(partition=partition)
        space: Any = SimpleNamespace(config=config, dataset=found, partition=[np.array([0]), np.array([1])])
        assert accuracies_at(space, [0, 1], np.array([True, False])).tolist() == accuracies


def test_accuracies_before_and_after_fine_tuning_are_of_the_same_clients() -> None:
    """What a client says after that it has not said before would make a row that nobody reads again."""

    def answer(before: float, after: float) -> RecordDict:
        return RecordDict({"metrics": MetricRecord({"accuracy": before, "fine-tuned-accuracy": after})})

    clients: Any = SimpleNamespace(ask=lambda *_: ({0: answer(2.0, 0.5), 1: answer(0.25, 0.5)}, {}))
    state: Any = SimpleNamespace(client_rounds=torch.zeros(2), round=1, weights={})
    config: Any = SimpleNamespace(fine_tune_epochs=1, clients=2)
    space: Any = SimpleNamespace(parts=SimpleNamespace(shared=lambda weights: weights))
    row = Evaluator(config, space, clients, None)._ask(state)
    assert row["client_accuracies"] == [None, 0.25]
    assert row["fine_tuned_accuracies"] == [None, 0.5]


def test_a_nodes_error_in_the_log_obeys_nobody() -> None:
    reply: Any = SimpleNamespace(error=Error(0, reason="line\x1b[2J\nsecond" + 10**6 * "x"))
    details = details_of(reply)
    assert details.startswith("line\\x1b[2J\nsecondx")
    assert len(details) < 20_000


def test_summary() -> None:
    row = summarise(np.arange(20) / 20)
    assert row["client_accuracy_mean"] == pytest.approx(0.475)
    assert row["client_accuracy_std"] == pytest.approx(np.std(np.arange(20) / 20))
    assert row["client_accuracy_worst_tenth"] == pytest.approx(0.025)
    assert summarise(np.array([0.5, 0.1]))["client_accuracy_worst_tenth"] == 0.1
    assert summarise(np.arange(17) / 20)["client_accuracy_worst_tenth"] == pytest.approx(0.025)  # two clients
    assert len(row["client_accuracies"]) == 20


def test_reports_are_in_client_order() -> None:
    updates = {client: Update({}, 10 * client, {"train_loss": client / 2, "other": 1.0}) for client in (3, 1)}
    assert reported(updates) == {"client": [1, 3], "examples": [10, 30], "train_loss": [0.5, 1.5]}


def test_in_a_run_of_those_who_made_the_examples(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    levels = {"dark": 40, "light": 200}
    for who, offset in (("ada", 0), ("ben", 20), ("cleo", 40)):
        for name, level in levels.items():
            for part, count in (("train", 6), ("test", 2)):
                folder = tmp_path / "data" / part / name / who
                folder.mkdir(parents=True)
                for number in range(count):
                    image = np.full((8, 8), level + offset - 5 * number, np.uint8)
                    Image.fromarray(image).save(folder / f"{number}.png")
    config = tiny(
        dataset=f"folder:{tmp_path / 'data'}",
        partition="natural",
        clients=3,
        limit_train=None,
        limit_test=None,
        validation=0.0,
        per_client_every=1,
        rounds=1,
        head="centroid",
    )
    row = run(config, quiet=True).history[0]
    # Each has four test images of its own.
    assert all((4 * accuracy) % 1 == 0 for accuracy in row["client_accuracies"])
    assert row["test_accuracy"] == pytest.approx(np.mean(row["client_accuracies"]))


def test_in_a_run(tiny: Callable[..., RunConfig]) -> None:
    rows = run(tiny(per_client_every=2, participation=0.7, rounds=3), quiet=True).history
    assert ["client_accuracy_mean" in row for row in rows] == [True, False, True, True]
    for row in rows[1:]:
        assert row["clients"]["client"] == row["participants"]
        assert row["clients"]["examples"] == [18] * 2
        assert row["train_loss"] == pytest.approx(np.mean(row["clients"]["train_loss"]))
    measured = rows[3]
    assert len(measured["client_accuracies"]) == 3
    worst, mean = measured["client_accuracy_worst_tenth"], measured["client_accuracy_mean"]
    assert worst == pytest.approx(min(measured["client_accuracies"]), abs=1e-6)
    assert 0 <= worst <= mean <= 1


def test_nodes_elsewhere_are_judged_by_statistics_of_their_own(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    fields = {"bn_stats": "local", "per_client_every": 1, "rounds": 2}
    here = run(tiny(**fields), quiet=True).history
    there = run(tiny(output=tmp_path / "there", **fields), quiet=True, grid=InProcessGrid(client_app, 3)).history
    assert [row["client_accuracies"] for row in there] == [row["client_accuracies"] for row in here]
    average = run(tiny(output=tmp_path / "average", per_client_every=1, rounds=2), quiet=True).history
    assert average[-1]["client_accuracies"] != here[-1]["client_accuracies"]
