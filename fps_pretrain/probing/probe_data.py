"""Labelled images that tell how good an encoder is: a bank to learn from and queries held out of the training set.

Neither is ever the test set, so that choosing by a probe leaves the test set unseen. Images are read as federations
read theirs: the short side is resized and the middle is cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.folder import read_class_folders
from fps_pretrain.images.known import read_cifar, read_digits
from fps_pretrain.images.parquet import index_table, read_parquet
from fps_pretrain.images.table import ImageIndex

BANK, QUERIES = 5_000, 1_000
"""At most this many images of each, so that a probe takes seconds."""

CIFAR10_FOLDER = "cifar-10-batches-py"
"""What torchvision unpacks CIFAR-10 into."""


@dataclass(frozen=True)
class ProbeData:
    """Images ``(N, size, size, 3)``, uint8 RGB, and labels ``(N,)`` from 0: a bank, and queries to classify."""

    name: str
    bank_images: np.ndarray
    bank_labels: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def load_probe_data(where: str, size: int, share: float = 1.0) -> ProbeData:
    """The probe's images at ``size`` pixels.

    Args:
        where: ``digits``, or a folder as ``--probe-data`` describes it.
        size: side of the images in pixels.
        share: takes fewer images than usual, where each of them is costly.

    Raises:
        UserError: the folder is missing, holds nothing that is known, or too little.
    """
    name, index = ("digits", read_digits(train=True)) if where == "digits" else _find(Path(where))
    labels = np.unique(index.labels, return_inverse=True)[1].astype(np.int64)
    bank, queries = _split(labels, where, share)
    images = [index.read(size, rows).images for rows in (bank, queries)]
    return ProbeData(name, images[0], labels[bank], images[1], labels[queries])


def _find(folder: Path) -> tuple[str, ImageIndex]:
    """What a folder holds, and its name: ``train.parquet``, CIFAR-10, or folders of images, in ``train/`` or itself."""
    if not folder.is_dir():
        raise UserError(f"--probe-data {folder}: there is no such folder (and 'digits' needs none)")
    table = folder / "train.parquet"
    if table.is_file():
        return table.resolve().parent.name, index_table(read_parquet([table], str(table), folder))
    if folder.name == CIFAR10_FOLDER or (folder / CIFAR10_FOLDER).is_dir():
        root = folder.parent if folder.name == CIFAR10_FOLDER else folder
        return "cifar10", read_cifar("cifar10", root, train=True)
    root = folder / "train" if (folder / "train").is_dir() else folder
    try:
        index = read_class_folders(root, allow_empty=True)
    except UserError as error:
        raise UserError(f"--probe-data {folder}: {error}") from error
    if not len(index):
        raise UserError(f"--probe-data {folder} holds neither CIFAR-10 nor a folder of images for each class")
    return folder.resolve().name, index


def _split(labels: np.ndarray, where: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of bank and queries, a quarter of the images at most, with the classes in equal shares."""
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(labels, return_counts=True)
    queries = min(max(round(share * QUERIES), 4 * len(classes)), len(labels) // 4)
    bank = min(max(round(share * BANK), 16 * len(classes)), len(labels) - queries)
    if len(classes) < 2 or counts.min() < 5 or min(queries, bank) < len(classes):
        raise UserError(f"--probe-data {where} holds too few images: every class needs at least 5, and two classes")
    split = train_test_split(
        np.arange(len(labels)), train_size=bank, test_size=queries, stratify=labels, random_state=0
    )
    return np.sort(split[0]), np.sort(split[1])
