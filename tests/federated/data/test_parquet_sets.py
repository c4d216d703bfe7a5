"""Data sets in parquet files: images, labels and names that are taken, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from federated.config.run import RunConfig
from federated.data import sets as data
from fps_pretrain.common.errors import UserError
from tests.fps_pretrain.images.encoded import encoded, grey, png_header, write_table


def test_parquet_is_decoded_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    grey = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    write_table(tmp_path / "data" / "train-0.parquet", [encoded(image) for image in colour[:3]], [0, 1, 2])
    write_table(tmp_path / "data" / "train-1.parquet", [encoded(image) for image in colour[3:]], [1, 1])
    write_table(tmp_path / "data" / "validation-0.parquet", [encoded(grey)], [2])
    loaded = data.load(RunConfig(dataset=f"parquet:{tmp_path}", image_size=16, validation=0.0))
    np.testing.assert_array_equal(loaded.train.images, colour)
    np.testing.assert_array_equal(loaded.train.labels, [0, 1, 2, 1, 1])
    np.testing.assert_array_equal(loaded.test.images[0], np.repeat(grey[:, :, None], 3, axis=2))
    assert loaded.classes == ("0", "1", "2")
    assert len(loaded.validation) == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"images": [b""], "label": [0]}, "needs an image column"),
        ({"img": [b"junk"], "label": [0]}, "image 0 is not an image"),
        ({"img": [None], "label": [0]}, "image 0 is not an image"),
        ({"img": [grey()], "label": ["cat"]}, "must be integers"),
        ({"img": [grey()], "label": [-1]}, "must lie in"),
        ({"img": pyarrow.array([], pyarrow.binary()), "label": pyarrow.array([], pyarrow.int64())}, "no training"),
    ],
)
def test_parquet_of_another_kind(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=words):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (10**6, "label 1000000 is too large"),
        (10**12, "label 1000000000000 is too large"),
        (2**62, "is too large"),
        (2**63, "labels must lie in 0..1"),  # as a signed integer it is negative
        (-1, "labels must lie in 0..1"),
    ],
)
def test_labels_that_number_no_classes(tmp_path: Path, label: int, words: str) -> None:
    """Each label up to the largest would be an output of the classifier, and a line of every table of classes."""
    kind = pyarrow.uint64() if label >= 2**63 else pyarrow.int64()
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}.parquet", [grey()] * 3, pyarrow.array([0, 1, label], kind))
    with pytest.raises(UserError, match=words):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))


def write_named(path: Path, labels: list[int], names: list[str]) -> None:
    """A table whose schema names its classes, as the Hugging Face hub's do."""
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pyarrow.table({"img": [grey()] * len(labels), "label": labels}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (["cat", "dog"], ["dog", "cat"], "do not name the same classes in the same order"),
        (["cat", "cat"], ["cat", "cat"], "two classes called cat"),
    ],
)
def test_names_that_two_tables_or_classes_cannot_have(
    tmp_path: Path, train: list[str], test: list[str], words: str
) -> None:
    for split, names in (("train", train), ("test", test)):
        write_named(tmp_path / f"{split}.parquet", [0, 1], names)
    with pytest.raises(UserError, match=words):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))


def test_a_nodes_table_gets_the_runs_labels_by_name(tmp_path: Path) -> None:
    config = RunConfig(dataset="digits", image_size=16)
    write_named(tmp_path / "train.parquet", [0, 1, 1], ["emu", "cat"])
    assert data.load_of_node(tmp_path, config, ("cat", "dog", "emu"))[0].labels.tolist() == [2, 0, 0]
    with pytest.raises(UserError, match="the class emu is none of the run's: cat, dog"):
        data.load_of_node(tmp_path, config, ("cat", "dog"))


@pytest.mark.parametrize("label", [-1, 2])  # the schema of the hub has -1 where a label is not known
def test_a_nodes_labels_are_those_that_its_table_names(tmp_path: Path, label: int) -> None:
    write_named(tmp_path / "train.parquet", [0, label], ["emu", "cat"])
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.1"):
        data.load_of_node(tmp_path, RunConfig(dataset="digits", image_size=16), ("cat", "dog", "emu"))


def test_names_in_the_schema_bound_the_labels(tmp_path: Path) -> None:
    for split, label in (("train", 1), ("test", 2)):
        write_named(tmp_path / f"{split}.parquet", [0, label], ["cat", "dog"])
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.1, the classes"):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))


def test_images_that_claim_to_be_giant_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}.parquet", [grey(), png_header(100_000, 100_000)], [0, 1])
    with pytest.raises(UserError, match=r"train\.parquet image 1 is an image of 100000 x 100000 pixels"):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))


def test_parquet_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train\*.parquet"):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        data.load(RunConfig(dataset=f"parquet:{tmp_path}"))


def test_parquet_with_an_id_column(tmp_path: Path) -> None:
    images = [{"bytes": grey(), "path": None}] * 3
    table = pyarrow.table({"image": images, "label": [0, 1, 1], "writer": [7, 8, 7]})
    for split in ("train", "test"):
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    fields: dict[str, Any] = {"dataset": f"parquet:{tmp_path}", "partition": "natural", "validation": 0.0}
    user_ids = data.load(RunConfig(id_column="writer", **fields)).train.user_ids
    assert user_ids is not None
    assert user_ids.tolist() == ["7", "8", "7"]
    with pytest.raises(UserError, match=r"--id-column painter: .* has the columns image, label, writer"):
        data.load(RunConfig(id_column="painter", **fields))
