"""Malformed data: folders and Parquet files that no run can be made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.tools.malformed.attempt import Case

RUN = ("--clients=2", "--partition=iid", "--image-size=8", "--arch=resnet8", "--rounds=1", "--threads=1", "--quiet")

_PIXELS = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _header_of(side: int) -> bytes:
    """A picture that says it is that large, and ends."""
    size = side.to_bytes(4, "big") * 2
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + size + b"\x08\x02\0\0\0" + bytes(40)


def _folder(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        for split in ("train", "test"):
            for name in ("a", "b"):
                (here / "data" / split / name).mkdir(parents=True)
                for number in range(4):
                    (here / "data" / split / name / f"{number}.png").write_bytes(_png(_PIXELS))
        change(here / "data")

    return prepare


FOLDERS: dict[str, Callable[[Path], object]] = {
    "1 x 60,000": lambda data: (data / "train" / "a" / "z.png").write_bytes(_png(np.zeros((1, 60_000, 3), np.uint8))),
    "100,000 pixels": lambda data: (data / "train" / "a" / "z.png").write_bytes(_header_of(100_000)),
    "empty image": lambda data: (data / "test" / "b" / "z.png").write_bytes(b""),
    "text": lambda data: (data / "test" / "b" / "z.png").write_text("hello"),
    "FIFO": lambda data: os.mkfifo(data / "train" / "a" / "z.png"),
    "link to a device": lambda data: (data / "test" / "a" / "z.png").symlink_to("/dev/zero"),
    "link to itself": lambda data: (data / "test" / "a" / "z.png").symlink_to(data / "test" / "a" / "z.png"),
    "no test set": lambda data: (data / "test").rename(data / "elsewhere"),
    "another class in the test set": lambda data: (data / "test" / "b").rename(data / "test" / "c"),
    "no images": lambda data: [path.unlink() for path in data.rglob("*.png")],
    "a file": lambda data: (data.rename(data.with_name("old")), data.write_text("hello")),
    "nothing": lambda data: data.rename(data.with_name("old")),
}

_CELL = {"bytes": _png(_PIXELS), "path": None}

CELLS: dict[str, Any] = {
    "null": None,
    "nothing": {"bytes": None, "path": None},
    "a device": {"bytes": None, "path": "/dev/zero"},
    "above": {"bytes": None, "path": "../../secret.png"},
    "NUL": {"bytes": None, "path": "a\0.png"},
    "text": {"bytes": b"hello", "path": None},
    "100,000 pixels": {"bytes": _header_of(100_000), "path": None},
    "1 x 60,000": {"bytes": _png(np.zeros((1, 60_000, 3), np.uint8)), "path": None},
}

LABELS: dict[str, list[Any]] = {
    "negative": [0, 1, -5, 1],
    "10**6": [0, 1, 10**6, 1],
    "10**12": [0, 1, 10**12, 1],
    "2**63 - 1": [0, 1, 2**63 - 1, 1],
    "null": [0, 1, None, 1],
    "fractions": [0.0, 1.0, float("nan"), 1.5],
    "text": ["a", "b", "c", "d"],
    "none": [],
}


def _parquet(images: list[Any], labels: list[Any]) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        (here / "data").mkdir()
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(images[: len(labels)], kind), "label": pa.array(labels)})
        for split in ("train", "test"):
            pq.write_table(table, here / "data" / f"{split}.parquet")

    return prepare


def data_cases() -> Iterator[Case]:
    """Each for a federation, and for probes, which read with the same code."""
    whole = [0, 1, 0, 1]
    prepared = {f"folder, {name}": ("folder", _folder(change)) for name, change in FOLDERS.items()}
    for name, cell in CELLS.items():
        prepared[f"cell, {name}"] = ("parquet", _parquet([_CELL, cell, _CELL, _CELL], whole))
    for name, labels in LABELS.items():
        prepared[f"labels, {name}"] = ("parquet", _parquet([_CELL] * 4, labels))
    for name, (kind, prepare) in prepared.items():
        dataset = f"--dataset={kind}:{{here}}/data"
        yield Case(f"data, {name}", "run_fl", (*RUN, dataset, "--output={here}/run"), prepare)
        probe = ("--inits=random", "--validation=0.5", "--image-size=8", "--arch=resnet8", "--threads=1", dataset)
        yield Case(f"probe, {name}", "experiments.probe", probe, prepare)
