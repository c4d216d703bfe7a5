"""Examples as files that processes of one machine map into their memory, one copy for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from federated.data.sets import Dataset, Split

PARTS = ("images", "labels", "user_ids")


def export_memmap(dataset: Dataset, folder: Path, *, test: bool) -> None:
    """Write the training examples and, if clients are to be judged where they are trained, the test examples."""
    folder.mkdir()
    for name, split in (("train", dataset.train), *((("test", dataset.test),) if test else ())):
        for part in PARTS:
            if (values := getattr(split, part)) is not None:
                np.save(folder / f"{name}-{part}.npy", values)
    (folder / "classes.json").write_text(json.dumps(dataset.classes), encoding="utf-8")


def import_memmap(folder: Path) -> Dataset:
    """What ``export_memmap`` wrote, mapped into memory; there are no other splits."""
    train = _read(folder, "train")
    test = _read(folder, "test") if (folder / "test-images.npy").is_file() else train.none()
    return Dataset(train, train.none(), test, tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8"))))


def _read(folder: Path, name: str) -> Split:
    files = {part: folder / f"{name}-{part}.npy" for part in PARTS}
    # Copy on write: PyTorch warns of read-only memory. Nobody writes, so nothing is copied.
    return Split(**{part: np.load(path, mmap_mode="c") for part, path in files.items() if path.is_file()})
