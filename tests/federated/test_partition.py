from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federated.config import RunConfig
from federated.partition import count_labels, describe, load_partition, make_partition, plot_partition, save_partition
from fps_pretrain.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 10, 1003)


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
@pytest.mark.parametrize("clients", [1, 7, 50])
def test_partitions_are_disjoint_and_complete(partition: Any, clients: int) -> None:
    parts = make_partition(RunConfig(partition=partition, clients=clients), LABELS)
    assert len(parts) == clients
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert len(part) >= 2


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
def test_partition_is_a_function_of_the_seed(partition: Any) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return [part.tolist() for part in make_partition(RunConfig(partition=partition, clients=5, seed=seed), LABELS)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_iid_parts_hold_all_classes_and_shards_few() -> None:
    for partition, least, most in (("iid", 9, 10), ("shards", 1, 4)):
        parts = make_partition(RunConfig(partition=partition, clients=10), np.sort(LABELS))  # type: ignore[arg-type]
        present = (count_labels(parts, np.sort(LABELS), 10) > 0).sum(axis=1)
        assert least <= present.min()
        assert present.max() <= most


def test_small_alpha_is_less_even() -> None:
    def spread(alpha: float) -> float:
        parts = make_partition(RunConfig(clients=5, alpha=alpha), LABELS)
        counts = count_labels(parts, LABELS, 10)
        return float((counts / counts.sum(axis=1, keepdims=True)).std())

    assert spread(0.1) > 2 * spread(100.0)


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
def test_more_clients_than_examples(partition: Any) -> None:
    with pytest.raises(UserError, match="--clients 11 is more than the 10 training examples"):
        make_partition(RunConfig(partition=partition, clients=11), np.arange(10))


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"partition": "dirichlet", "alpha": 0.01, "min_partition_size": 90}, "raise --alpha"),
        ({"partition": "iid", "min_partition_size": 200}, "lower --clients"),
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


def test_picture_and_summary(tmp_path: Path) -> None:
    parts = make_partition(RunConfig(clients=4, partition="iid"), LABELS)
    plot_partition(tmp_path / "partition.png", parts, LABELS, [str(i) for i in range(10)])
    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")
    assert describe(parts, LABELS, 10) == "4 clients with 250 to 251 examples (median 251) of 10 to 10 classes"
