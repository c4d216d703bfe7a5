"""Tiny-ImageNet as its archive unpacks: ``train/ID/images/*.JPEG``, ``val/images`` and ``val/val_annotations.txt``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text
from fps_pretrain.images.decode import decode_files
from fps_pretrain.images.table import ImageIndex, Images, Rows

PAGE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

MAX_LIST_BYTES = 2**26
"""Length of the longest list that is read; words.txt of the archive has 2.6 MB."""


def read_tiny_imagenet(root: Path) -> tuple[ImageIndex, ImageIndex]:
    """The training images, and the validation images for testing (those of ``test/`` have no labels).

    Args:
        root: the unpacked ``tiny-imagenet-200``, or the folder that holds it.

    Raises:
        UserError: a list is missing or damaged, or names a file outside of its folder.
    """
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    identifiers = " ".join(_lines(root, "wnids.txt")).split()
    if len(set(identifiers)) < len(identifiers) or not all(map(_is_plain_name, identifiers)):
        raise UserError(f"{root / 'wnids.txt'} is damaged: it must list each class's folder once")
    words = dict(line.split("\t", 1) for line in _lines(root, "words.txt") if "\t" in line)
    classes = _names(identifiers, words)
    label_of = {identifier: label for label, identifier in enumerate(identifiers)}

    paths: list[Path] = []
    labels: list[int] = []
    for identifier, label in label_of.items():
        found = sorted((root / "train" / identifier / "images").glob("*.JPEG"))
        if not found:
            raise UserError(f"{root / 'train' / identifier} holds no images: unpack {PAGE} again")
        paths += found
        labels += [label] * len(found)
    train = _index(paths, labels, classes)

    paths, labels = [], []
    for number, line in enumerate(_lines(root, "val/val_annotations.txt"), 1):
        name, identifier, *_ = [*line.split("\t"), ""]
        if identifier not in label_of or not _is_plain_name(name):
            raise UserError(f"{root / 'val' / 'val_annotations.txt'} is damaged in line {number}")
        paths.append(root / "val" / "images" / name)
        labels.append(label_of[identifier])
    return train, _index(paths, labels, classes)


def _names(identifiers: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """The first word for each class; all its words, or its identifier, too, where two classes would have one name."""
    names = [words.get(identifier, identifier).split(",")[0] for identifier in identifiers]
    for longer in ("{words}", "{words} ({identifier})"):
        taken = Counter(names)
        names = [
            name if taken[name] == 1 else longer.format(words=words.get(i, i), identifier=i)
            for name, i in zip(names, identifiers, strict=True)
        ]
    return tuple(names)


def _lines(root: Path, name: str) -> list[str]:
    path = root / name
    if not path.is_file():
        raise UserError(f"{root} lacks {name} of tiny-imagenet-200: see {PAGE}")
    return read_text(path, MAX_LIST_BYTES).splitlines()


def _is_plain_name(name: str) -> bool:
    """Whether a name stays in its folder."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def _index(paths: Sequence[Path], labels: Sequence[int], classes: tuple[str, ...]) -> ImageIndex:
    def pixels(rows: Rows, image_size: int) -> Images:
        return decode_files([paths[row] for row in rows], image_size)

    return ImageIndex(np.asarray(labels, np.int64), pixels, classes=classes)
