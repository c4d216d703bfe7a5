"""Labelled images that tell how good an encoder is: a bank to learn from and queries held out of the training set.

Neither is ever the test set, so that choosing by a probe leaves the test set unseen.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.pairs.folder import list_images, read_image

BANK, QUERIES = 5_000, 1_000
"""At most this many images of each, so that a probe takes seconds."""


@dataclass(frozen=True)
class ProbeData:
    """Images ``(N, size, size, 3)``, uint8 RGB, and labels ``(N,)`` from 0: a bank, and queries to classify."""

    name: str
    bank_images: np.ndarray
    bank_labels: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def _split(labels: np.ndarray, where: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of bank and queries, a quarter of the images at most, with the classes in equal shares."""
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


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """``(H, W, 3)`` to ``(size, size, 3)``: the middle square, averaged when it shrinks."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = image[top : top + side, left : left + side]
    return cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def _digits(size: int, share: float) -> ProbeData:
    """scikit-learn's handwritten digits, which come with it: the four fifths that federations train on, split again."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.target))
    train, _test = train_test_split(rows, test_size=0.2, stratify=digits.target, random_state=0)
    train = np.sort(train)
    bank, queries = _split(digits.target[train], "digits", share)
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in grey[train]])
    rgb, labels = np.repeat(images[..., None], 3, axis=3), digits.target[train].astype(np.int64)
    return ProbeData("digits", rgb[bank], labels[bank], rgb[queries], labels[queries])


def _parquet(path: Path, size: int, share: float) -> ProbeData:
    """``train.parquet`` as on the Hugging Face hub: a column of encoded images and one of integer labels."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path)
    images = next((name for name in ("img", "image") if name in table.column_names), None)
    targets = next((name for name in ("label", "fine_label", "labels") if name in table.column_names), None)
    if images is None or targets is None:
        raise UserError(f"--probe-data {path} has no columns of images (img, image) and labels (label, fine_label)")
    labels = np.unique(table.column(targets).to_numpy(), return_inverse=True)[1].astype(np.int64)
    bank, queries = _split(labels, str(path), share)

    def pick(rows: np.ndarray) -> np.ndarray:
        cells = table.column(images).take(rows).to_pylist()
        decoded = (np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in cells)
        return np.stack([_resize(image, size) for image in decoded])

    return ProbeData(path.resolve().parent.name, pick(bank), labels[bank], pick(queries), labels[queries])


def _cifar(folder: Path, size: int, share: float) -> ProbeData:
    """CIFAR-10 as torchvision unpacks it; its files are known by their MD5 sums before they are read."""
    from torchvision import datasets

    try:
        table = datasets.CIFAR10(str(folder), train=True, download=False)
    except RuntimeError as error:
        raise UserError(f"--probe-data {folder}: {error}") from error
    labels = np.asarray(table.targets, np.int64)
    bank, queries = _split(labels, str(folder), share)
    images = [np.stack([_resize(table.data[i], size) for i in rows]) for rows in (bank, queries)]
    return ProbeData("cifar10", images[0], labels[bank], images[1], labels[queries])


def _image_folder(folder: Path, size: int, share: float) -> ProbeData:
    """One folder of images for each class, in ``folder`` or, where there is one, in its ``train``."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    paths = [(root / name / image, number) for number, name in enumerate(classes) for image in list_images(root / name)]
    if not paths:
        raise UserError(f"--probe-data {folder} holds neither CIFAR-10 nor a folder of images for each class")
    labels = np.array([number for _, number in paths], np.int64)
    bank, queries = _split(labels, str(folder), share)
    images = [np.stack([_resize(read_image(paths[i][0]), size) for i in rows]) for rows in (bank, queries)]
    return ProbeData(folder.resolve().name, images[0], labels[bank], images[1], labels[queries])


def load_probe_data(where: str, size: int, share: float = 1.0) -> ProbeData:
    """The probe's images at ``size`` pixels.

    Args:
        where: ``digits``, or a folder as ``--probe-data`` describes it.
        size: side of the images in pixels.
        share: takes fewer images than usual, where each of them is costly.

    Raises:
        UserError: the folder is missing, holds nothing that is known, or too little.
    """
    if where == "digits":
        return _digits(size, share)
    folder = Path(where)
    if not folder.is_dir():
        raise UserError(f"--probe-data {where}: there is no such folder (and 'digits' needs none)")
    if (folder / "train.parquet").is_file():
        return _parquet(folder / "train.parquet", size, share)
    if folder.name == "cifar-10-batches-py":
        return _cifar(folder.parent, size, share)
    if (folder / "cifar-10-batches-py").is_dir():
        return _cifar(folder, size, share)
    return _image_folder(folder, size, share)
