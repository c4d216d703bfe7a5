from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr_datasets.partitioner import DirichletPartitioner
from matplotlib.figure import Figure

from federated.config.run import RunConfig
from federated.data import partition_plot
from federated.data.partition import count_labels, describe, make_partition
from federated.data.partition_file import load_partition, save_partition
from federated.data.partition_plot import plot_partition
from fps_pretrain.common.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 10, 1003)


BY_LABEL = ["iid", "dirichlet", "inner-dirichlet", "shards", "pathological", "size"]


def config_for(partition: str, **fields: Any) -> RunConfig:
    """A configuration that does for any number of clients: one client of a pathological partition needs all classes."""
    if partition == "pathological" and fields.get("clients", 10) < 5:
        fields["classes_per_client"] = 10
    return RunConfig(partition=partition, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("partition", BY_LABEL)
@pytest.mark.parametrize("clients", [1, 7, 50])
def test_partitions_are_disjoint_and_complete(partition: Any, clients: int) -> None:
    parts = make_partition(config_for(partition, clients=clients), LABELS)
    assert len(parts) == clients
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert len(part) >= 2


@pytest.mark.parametrize("partition", BY_LABEL)
def test_partition_is_a_function_of_the_seed(partition: Any) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return [part.tolist() for part in make_partition(config_for(partition, clients=5, seed=seed), LABELS)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("partition", ["iid", "inner-dirichlet", "shards", "pathological", "size"])
def test_ten_thousand_clients(partition: Any) -> None:
    labels = np.random.default_rng(1).integers(0, 10, 50_000)
    parts = make_partition(RunConfig(partition=partition, clients=10_000), labels)
    assert len(np.unique(np.concatenate(parts))) == 50_000
    assert min(map(len, parts)) >= 2


@pytest.mark.parametrize(("clients", "classes"), [(5, 2), (10, 3), (50, 1)])
def test_pathological_clients_have_so_many_classes_and_every_class_has_a_client(clients: int, classes: int) -> None:
    config = RunConfig(partition="pathological", clients=clients, classes_per_client=classes)
    present = count_labels(make_partition(config, LABELS), LABELS, 10) > 0
    assert (present.sum(axis=1) == classes).all()
    holders = present.sum(axis=0)
    assert holders.min() >= 1
    assert holders.max() - holders.min() <= 1


def test_a_pathological_class_with_fewer_examples_than_clients_is_refused() -> None:
    labels = np.repeat(np.arange(10), [3, *[100] * 9])
    with pytest.raises(UserError, match="class 0 has 3 training examples for 4 clients"):
        make_partition(RunConfig(partition="pathological", clients=20, classes_per_client=2), labels)


def test_pathological_partitions_that_cannot_be() -> None:
    with pytest.raises(UserError, match="--classes-per-client 11 is more than the 10 classes"):
        make_partition(RunConfig(partition="pathological", classes_per_client=11), LABELS)
    with pytest.raises(UserError, match="cannot hold all 10 classes"):
        make_partition(RunConfig(partition="pathological", clients=4), LABELS)


def test_inner_dirichlet_clients_are_equal_in_size_and_differ_in_classes() -> None:
    config = RunConfig(partition="inner-dirichlet", clients=10, alpha=0.1)
    counts = count_labels(make_partition(config, LABELS), LABELS, 10)
    assert counts.sum(axis=1).max() - counts.sum(axis=1).min() <= 1
    # The first to draw has the classes it drew; alpha 0.1 gives one class more than half of most clients.
    assert np.median(counts.max(axis=1) / counts.sum(axis=1)) > 0.5
    even = count_labels(make_partition(dataclasses.replace(config, alpha=1000.0), LABELS), LABELS, 10)
    assert np.median(even.max(axis=1) / even.sum(axis=1)) < 0.25


@pytest.mark.parametrize(
    ("skew", "expected"), [("linear", [1, 2, 3, 4]), ("square", [1, 4, 9, 16]), ("exponential", np.exp([1, 2, 3, 4]))]
)
def test_sizes_grow_as_asked(skew: Any, expected: Any) -> None:
    config = RunConfig(partition="size", size_skew=skew, clients=4, min_partition_size=20)
    sizes = np.array([len(part) for part in make_partition(config, LABELS)])
    np.testing.assert_allclose(sizes - 20, np.array(expected) / np.sum(expected) * (len(LABELS) - 80), atol=1)


def test_clients_with_the_fewest_examples_allowed_are_no_impossible_sizes() -> None:
    config = RunConfig(partition="size", clients=10, min_partition_size=10)
    assert [len(part) for part in make_partition(config, LABELS[:100])] == [10] * 10
    with pytest.raises(UserError, match="lower --clients or --min-partition-size"):
        make_partition(config, LABELS[:99])


def test_natural_partition_keeps_user_ids_together() -> None:
    user_ids = np.random.default_rng(2).choice([f"writer {i}" for i in range(30)], len(LABELS))
    config = RunConfig(dataset="hub:x", id_column="writer", partition="natural", clients=30)
    parts = make_partition(config, LABELS, user_ids)
    assert sorted(np.unique(user_ids[part]).item() for part in parts) == sorted(set(user_ids))
    grouped = make_partition(dataclasses.replace(config, clients=7), LABELS, user_ids)
    np.testing.assert_array_equal(np.sort(np.concatenate(grouped)), np.arange(len(LABELS)))
    assert sum(len(set(user_ids[part])) for part in grouped) == 30
    again = make_partition(dataclasses.replace(config, clients=7, seed=1), LABELS, user_ids)
    assert [part.tolist() for part in again] != [part.tolist() for part in grouped]
    with pytest.raises(UserError, match="--clients 31 is more than the 30 who made"):
        make_partition(dataclasses.replace(config, clients=31), LABELS, user_ids)


def test_iid_parts_hold_all_classes_and_shards_few() -> None:
    for partition, least, most in (("iid", 9, 10), ("shards", 1, 4)):
        parts = make_partition(RunConfig(partition=partition, clients=10), np.sort(LABELS))  # type: ignore[arg-type]
        present = (count_labels(parts, np.sort(LABELS), 10) > 0).sum(axis=1)
        assert least <= present.min()
        assert present.max() <= most


def test_shards_are_dealt_at_random() -> None:
    labels = np.repeat(np.arange(20), 10)  # twenty shards of one class each
    parts = make_partition(RunConfig(partition="shards", clients=10, shards_per_client=2), labels)
    classes = [np.unique(labels[part]) for part in parts]
    assert [len(of_client) for of_client in classes] == [2] * 10
    assert np.median([np.ptp(of_client) for of_client in classes]) > 2, "neighbouring classes go together"


def test_a_pathological_clients_share_of_a_class_is_drawn_at_random() -> None:
    labels = np.sort(LABELS)
    parts = make_partition(RunConfig(partition="pathological", clients=10, classes_per_client=2), labels)
    shares = [part[labels[part] == label] for part in parts for label in np.unique(labels[part])]
    assert all(np.ptp(share) >= len(share) for share in shares), "a share is a block of the data set's order"


def test_dirichlet_clients_have_few_classes_for_a_small_alpha() -> None:
    for alpha, least, most in ((0.1, 0.35, 1.0), (1000.0, 0.0, 0.2)):
        counts = count_labels(make_partition(RunConfig(clients=10, alpha=alpha), LABELS), LABELS, 10)
        assert least < np.median(counts.max(axis=1) / counts.sum(axis=1)) < most


def test_inner_dirichlet_draws_its_class_proportions_with_alpha() -> None:
    """The mean sum of their squares is (alpha + 1) / (10 alpha + 1), a little more where examples run out."""
    labels = np.random.default_rng(1).integers(0, 10, 20_000)
    config = RunConfig(partition="inner-dirichlet", clients=100, alpha=1.0)
    counts = count_labels(make_partition(config, labels), labels, 10)
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert 0.95 * 2 / 11 < np.square(shares).sum(axis=1).mean() < 1.3 * 2 / 11


def test_who_gets_what_inner_dirichlet_has_left_is_drawn_at_random() -> None:
    """The last to draw have several classes where the first have one: these must not be those with high numbers."""
    labels, lead = np.random.default_rng(1).integers(0, 10, 500), []
    for seed in range(20):
        config = RunConfig(partition="inner-dirichlet", clients=10, alpha=0.01, seed=seed)
        counts = count_labels(make_partition(config, labels), labels, 10)
        largest = counts.max(axis=1) / counts.sum(axis=1)
        lead.append(largest[:5].mean() - largest[5:].mean())
    assert abs(np.mean(lead)) < 0.1


def test_small_alpha_is_less_even() -> None:
    def spread(alpha: float) -> float:
        parts = make_partition(RunConfig(clients=5, alpha=alpha), LABELS)
        counts = count_labels(parts, LABELS, 10)
        return float((counts / counts.sum(axis=1, keepdims=True)).std())

    assert spread(0.1) > 2 * spread(100.0)


@pytest.mark.parametrize("partition", BY_LABEL)
def test_more_clients_than_examples(partition: Any) -> None:
    with pytest.raises(UserError, match="--clients 11 is more than the 10 training examples"):
        make_partition(RunConfig(partition=partition, clients=11), np.arange(10))


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"partition": "dirichlet", "alpha": 0.01, "min_partition_size": 90}, "raise --alpha"),
        ({"partition": "iid", "min_partition_size": 200}, "lower --clients"),
        ({"partition": "size", "min_partition_size": 200}, "lower --clients"),
        ({"partition": "shards", "shards_per_client": 200}, "lower --shards-per-client"),
    ],
)
def test_impossible_partitions_say_what_to_change(fields: dict[str, Any], advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        make_partition(RunConfig(**fields), LABELS)


def test_file_round_trip_and_damage(tmp_path: Path) -> None:
    parts = make_partition(RunConfig(clients=4), LABELS)
    path = tmp_path / "partition.npz"
    save_partition(path, parts)
    for written, read in zip(parts, load_partition(path), strict=True):
        np.testing.assert_array_equal(written, read)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_partition(path)
    np.savez(path, indices=np.array([{}], dtype=object), ends=np.array([1]))  # a pickle inside
    with pytest.raises(UserError, match="damaged"):
        load_partition(path)


@pytest.mark.parametrize(
    ("indices", "ends"),
    [
        ([0, 1, 2, 2], [2, 4]),
        ([0, 1, 2, -1], [2, 4]),
        ([0, 1, 2, 9], [2, 4]),
        ([0, 1, 2, 3], [3, 2, 4]),
        ([0, 1, 2, 3], [2, 3]),
        ([0, 1, 2, 3], [-1, 4]),
        ([0, 1, 2, 3], []),
    ],
)
def test_a_file_that_is_no_partition(tmp_path: Path, indices: list[int], ends: list[int]) -> None:
    np.savez(tmp_path / "partition.npz", indices=indices, ends=np.array(ends, np.int64))
    with pytest.raises(UserError, match="damaged"):
        load_partition(tmp_path / "partition.npz")


def test_clients_without_examples_round_trip(tmp_path: Path) -> None:
    save_partition(tmp_path / "partition.npz", [np.empty(0, np.int64)] * 3)
    assert [len(part) for part in load_partition(tmp_path / "partition.npz")] == [0, 0, 0]


def test_the_order_of_examples_and_the_dirichlet_draw_have_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    class Recorded(DirichletPartitioner):
        def __init__(self, *args: Any, seed: int, **options: Any) -> None:
            seeds.append(seed)
            super().__init__(*args, seed=seed, **options)

    generator = np.random.default_rng

    def recorded(seed: Any = None) -> np.random.Generator:
        seeds.append(seed)
        return generator(seed)

    monkeypatch.setattr("flwr_datasets.partitioner.DirichletPartitioner", Recorded)
    monkeypatch.setattr(np.random, "default_rng", recorded)
    make_partition(RunConfig(clients=5, partition="dirichlet"), LABELS)
    assert len(set(seeds)) == 2


def test_picture_and_summary(tmp_path: Path) -> None:
    parts = make_partition(RunConfig(clients=4, partition="iid"), LABELS)
    plot_partition(tmp_path / "partition.png", parts, LABELS, [str(i) for i in range(10)])
    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")
    many = make_partition(RunConfig(clients=100, partition="iid"), LABELS)
    plot_partition(tmp_path / "many.png", many, LABELS, [str(i) for i in range(10)])
    width, height = np.frombuffer((tmp_path / "many.png").read_bytes()[16:24], ">u4")
    assert width < 2000 > height  # a map, not a hundred bars
    assert describe(parts, LABELS, 10) == "4 clients with 250 to 251 examples (median 251) of 10 to 10 classes"


def test_one_client_is_not_described_as_a_range() -> None:
    """As in ``--centralised``: who holds everything has no smallest and largest client."""
    parts = make_partition(RunConfig(clients=1, partition="iid"), LABELS)
    assert describe(parts, LABELS, 10) == f"1 client with {len(LABELS)} examples of 10 classes"
    assert describe([np.array([0])], LABELS, 10) == "1 client with 1 example of 1 class"


def test_what_a_picture_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(partition_plot.plots, "save", lambda figure, path: drawn.append(figure))
    counts = np.array([[1, 3], [4, 2], [0, 5], [6, 0]])
    partition_plot.plot_counts(tmp_path / "bars.png", counts, ["a", "b"])
    first, second = drawn[0].axes[0].containers
    assert [bar.get_height() for bar in first] == [1, 4, 0, 6]
    assert [(bar.get_y(), bar.get_height()) for bar in second] == [(1, 3), (4, 2), (0, 5), (6, 0)]
    monkeypatch.setattr(partition_plot, "MAX_BARS", 3)
    partition_plot.plot_counts(tmp_path / "map.png", counts, ["a", "b"])
    (image,) = drawn[1].axes[1].images
    # Clients of class a first, those with the largest share of it first of all.
    np.testing.assert_allclose(image.get_array(), [[1, 4 / 6, 0, 1 / 4], [0, 2 / 6, 1, 3 / 4]])


def test_a_picture_of_many_classes_is_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of 60,000 classes take minutes."""
    monkeypatch.setattr(partition_plot, "_draw_bars", lambda *_: pytest.fail("bars"))
    counts = np.random.default_rng(0).integers(0, 3, (4, 20_000))
    partition_plot.plot_counts(tmp_path / "partition.png", counts, [str(label) for label in range(20_000)])
    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")
