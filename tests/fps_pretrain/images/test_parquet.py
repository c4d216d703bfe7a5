"""Tables in the Hugging Face layout, and tables that only claim to be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.parquet import ArrowSource, find_parquet, index_table, read_parquet
from fps_pretrain.images.table import ImageIndex
from tests.fps_pretrain.images.encoded import grey, png_header, write_table


def read(root: Path, id_column: str = "") -> ImageIndex:
    return index_table(read_parquet(find_parquet(root, ("train",)), f"parquet:{root}", root), id_column)


@pytest.mark.parametrize("cells", ["pairs", "plain bytes"])
def test_images_labels_and_user_ids(tmp_path: Path, cells: str) -> None:
    images = [grey(level) for level in range(4)]
    columns: dict[str, Any] = {"img": images, "label": [3, 2, 1, 0], "who": [7, 8, 7, 9]}
    if cells == "pairs":
        columns["img"] = [{"bytes": image, "path": "name.png"} for image in images]
    for number in range(2):
        part = {name: column[2 * number : 2 * number + 2] for name, column in columns.items()}
        pyarrow.parquet.write_table(pyarrow.table(part), tmp_path / f"train-{number}.parquet")
    index = read(tmp_path, "who")
    assert index.labels.tolist() == [3, 2, 1, 0]
    assert index.user_ids is not None
    assert index.user_ids.tolist() == ["7", "8", "7", "9"]
    assert index.classes == ()
    assert index.read(9).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    chosen = index.read(9, np.array([3, 1]))
    assert chosen.images[:, 0, 0, 0].tolist() == [3, 1]
    assert chosen.labels.tolist() == [0, 2]


def test_a_folder_of_parts_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").mkdir()
    for number in range(2):
        write_table(tmp_path / "train.parquet" / f"train-{number}.parquet", [grey()], [number])
    assert read(tmp_path).labels.tolist() == [0, 1]


def test_the_file_and_row_of_a_bad_image_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "train-0.parquet", [grey()] * 3, [0, 1, 2])
    write_table(tmp_path / "train-1.parquet", [grey(), b"torn"], [0, 1])
    with pytest.raises(UserError, match=r"train-1\.parquet image 1 is not an image"):
        read(tmp_path).read(8)
    source = ArrowSource(pyarrow.table({"img": [b"torn"], "label": [0]}), "hub:x")
    with pytest.raises(UserError, match=r"^hub:x image 0 is not an image"):
        index_table(source).read(8)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "its cell holds no encoded bytes"),
        ({"bytes": None, "path": None}, "its cell holds no encoded bytes"),
        ({"bytes": b"", "path": None}, "is not an image"),
        ({"bytes": None, "path": "/dev/zero"}, "is not inside"),
        ({"bytes": None, "path": "/etc/passwd"}, "is not inside"),
        ({"bytes": None, "path": "../outside.png"}, "is not inside"),
        ({"bytes": None, "path": "link.png"}, "is not inside"),
        ({"bytes": None, "path": "nul\0.png"}, "is not inside"),
        ({"bytes": None, "path": "x" * 5000}, "leads to no file"),
        ({"bytes": None, "path": "loop.png"}, "is not inside|cannot be read"),
        ({"bytes": None, "path": "fifo.png"}, "not a regular file"),
        ({"bytes": None, "path": "missing.png"}, "leads to no file"),
        ({"bytes": png_header(100_000, 100_000), "path": None}, "100000 x 100000 pixels"),
        ({"bytes": "a text", "path": None}, "its cell holds no encoded bytes"),
        ({"bytes": [1, 2], "path": None}, "its cell holds no encoded bytes"),
        ("a text", "its cell holds no encoded bytes"),
        (3, "its cell holds no encoded bytes"),
    ],
)
def test_cells_that_hold_no_image(tmp_path: Path, cell: Any, words: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "outside.png").write_bytes(grey())
    (root / "link.png").symlink_to("/dev/zero")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "fifo.png")
    pyarrow.parquet.write_table(pyarrow.table({"img": [cell], "label": [0]}), root / "train.parquet")
    with pytest.raises(UserError, match=words) as refused:
        read(root).read(8)
    assert "\n" not in str(refused.value)


def test_path_cells_lead_to_files_beside_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(grey(50))
    monkeypatch.chdir("/")
    cells = [{"bytes": None, "path": path} for path in ("images/a.png", str(tmp_path / "images" / "a.png"))]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": [0, 1]}), tmp_path / "train.parquet")
    assert (read(tmp_path).read(8).images == 50).all()


def huggingface(features: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


@pytest.mark.parametrize(
    ("metadata", "classes"),
    [
        (huggingface({"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}), ("cat", "dog")),
        (huggingface({"label": {"dtype": "int64"}}), ()),
        (huggingface({}), ()),
        ({b"huggingface": b"{}"}, ()),
        ({b"pandas": b"junk"}, ()),
        (huggingface({"label": {"names": "cat"}}), None),
        (huggingface({"label": {"names": [1, 2]}}), None),
        (huggingface({"label": {"names": ["\ud800"]}}), None),
        (huggingface({"label": [1]}), None),
        (huggingface([]), None),
        (huggingface(None), None),
        ({b"huggingface": b"[]"}, None),
        ({b"huggingface": b"\xff"}, None),
        ({b"huggingface": b"not json"}, None),
        ({b"huggingface": b"[" * 100_000}, None),
    ],
)
def test_names_of_classes(tmp_path: Path, metadata: dict[bytes, bytes], classes: tuple[str, ...] | None) -> None:
    table = pyarrow.table({"img": [grey()], "label": [0]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    if classes is not None:
        assert read(tmp_path).classes == classes
        return
    with pytest.raises(UserError, match="the Hugging Face metadata in its schema are damaged"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"images": [b""], "label": [0]}, "needs an image column"),
        ({"img": [b""], "label": ["cat"]}, "must be integers"),
        ({"img": [b""], "label": [0.5]}, "must be integers"),
        ({"img": [b"", b""], "label": [0, None]}, "some values in column label are missing"),
        ({"img": [b"", b""], "label": [0, 1], "who": ["ada", None]}, "some values in column who are missing"),
    ],
)
def test_columns_of_another_kind(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=words):
        read(tmp_path, "who")


def test_a_column_that_is_there_twice() -> None:
    table = pyarrow.Table.from_arrays([[grey()], [0], [1]], names=["img", "label", "label"])
    with pytest.raises(UserError, match="2 columns called label"):
        index_table(ArrowSource(table, "hub:x"))


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_table(path, [grey()], [0])
    whole = path.read_bytes()
    for content in (b"img,label\n1,2\n", b"", whole[: len(whole) // 2], b"PAR1" + b"\xff" * 100 + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train\.parquet cannot be read as Parquet"):
            read(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"train\.parquet cannot be read as Parquet: it is not a regular file"):
        read(tmp_path)


def test_files_with_other_columns_than_their_siblings(tmp_path: Path) -> None:
    write_table(tmp_path / "train-0.parquet", [grey()], [0])
    write_table(tmp_path / "train-1.parquet", [grey()], ["cat"])
    with pytest.raises(UserError, match="cannot be read as Parquet with the files beside it"):
        read(tmp_path)
