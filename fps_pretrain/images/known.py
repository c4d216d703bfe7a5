"""Data sets in the files of their own libraries: scikit-learn's digits and torchvision's CIFAR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.decode import pack
from fps_pretrain.images.table import ImageIndex, Images, Rows


def read_digits(train: bool) -> ImageIndex:
    """scikit-learn's 1,797 handwritten digits (8x8, grey in 0..16), which come with it.

    Four fifths of each class are for training, always the same.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    split = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    chosen = np.sort(split[0 if train else 1])
    grey_images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)

    def pixels(rows: Rows, image_size: int) -> Images:
        return pack((np.repeat(grey_image[:, :, None], 3, axis=2) for grey_image in grey_images[rows]), image_size)

    labels = digits.target[chosen].astype(np.int64)
    return ImageIndex(labels, pixels, classes=tuple(str(name) for name in digits.target_names))


def cifar_type(name: str) -> Any:
    """torchvision's class for ``cifar10`` or ``cifar100``."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def has_cifar(name: str, root: Path) -> bool:
    """Whether torchvision finds ``cifar10`` or ``cifar100`` below ``root``, all files with the published checksums."""
    try:
        cifar_type(name)(str(root), train=True)
    except RuntimeError:
        return False
    return True


def read_cifar(name: str, root: Path, train: bool) -> ImageIndex:
    """CIFAR as torchvision unpacks it. Its batches are pickles; they are opened only if their MD5 sums are known.

    Args:
        name: ``cifar10`` or ``cifar100``.
        root: the folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        train: the training images, or the test images.

    Raises:
        UserError: the files are not there or are others.
    """
    try:
        source = cifar_type(name)(str(root), train=train)
    except RuntimeError as error:
        raise UserError(f"{root} does not hold {name} as torchvision unpacks it: {error}") from error

    def pixels(rows: Rows, image_size: int) -> Images:
        return pack((source.data[row] for row in rows), image_size)

    return ImageIndex(np.asarray(source.targets, np.int64), pixels, classes=tuple(source.classes))
