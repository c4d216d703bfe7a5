"""Images in folders: any folder of images, and one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.decode import decode_files
from fps_pretrain.images.table import ImageIndex, Images, Rows

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

MAX_FOLDERS = 1_000_000
"""Folders that are looked into before a folder is taken to be a mistake, such as a link to a whole disk."""


def list_images(folder: Path) -> list[str]:
    """Paths of all images below ``folder``, relative to it, in alphabetical order; links to folders are followed.

    Raises:
        UserError: a folder cannot be read, a link leads back to a folder above it, or what has an image's name is no
            file (a FIFO, a device, a link to nothing).
    """
    return sorted(os.path.relpath(os.path.join(parent, name), folder) for parent, name in _walk(folder))


def read_class_folders(
    folder: Path,
    classes: Sequence[str] = (),
    user_ids: Literal["no", "if there", "needed"] = "no",
    allow_empty: bool = False,
) -> ImageIndex:
    """One folder of images for each class, ``CLASS/*.png`` or deeper, in the order of torchvision's ImageFolder.

    Args:
        folder: where the folders of the classes are.
        classes: the classes in the order of their labels; by default the folders in alphabetical order. Some may be
            without a folder.
        user_ids: whether the name of the folder below the class, ``CLASS/WHO/*.png``, says who made an image: not
            wanted, taken if all images have one, or needed.
        allow_empty: whether a class may be without images.

    Raises:
        UserError: as ``list_images``; there are no classes, one is empty or none of ``classes``, a name is not UTF-8,
            or an image lies outside of a folder that says who made it.
    """
    found = _class_names(folder)
    if classes and (strange := sorted(set(found) - set(classes))):
        raise UserError(f"{folder} has the class {strange[0]}, which is none of the run's: {', '.join(classes)}")
    names = tuple(classes) or found
    paths: list[Path] = []
    labels: list[int] = []
    for name in found:
        inside = [Path(parent, file) for parent, file in sorted(_walk(folder / name))]
        if not inside and not allow_empty:
            raise UserError(f"{folder / name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        paths += inside
        labels += [names.index(name)] * len(inside)

    def pixels(rows: Rows, image_size: int) -> Images:
        return decode_files([paths[row] for row in rows], image_size)

    makers = None if user_ids == "no" else _user_ids(folder, paths, needed=user_ids == "needed")
    return ImageIndex(np.asarray(labels, np.int64), pixels, makers, names)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in _look_into(folder)[1] if _is_folder(entry))
    if not names:
        raise UserError(f"{folder} holds no folder of images for each class")
    for name in names:
        _check_utf8(folder / name)
    return tuple(names)


def _user_ids(folder: Path, paths: Sequence[Path], needed: bool) -> NDArray[np.str_] | None:
    below = [path.relative_to(folder).parts for path in paths]
    stray = next((path for path, parts in zip(paths, below, strict=True) if len(parts) < 3), None)
    if stray is None:
        for class_name, who in dict.fromkeys(parts[:2] for parts in below):
            _check_utf8(folder / class_name / who)
        return np.array([parts[1] for parts in below], dtype=np.str_)
    if needed:
        raise UserError(f"--partition natural: {stray} must lie in a folder that says who made it, CLASS/WHO/")
    return None


def _check_utf8(folder: Path) -> None:
    """Names of classes and of those who made images are written to files; those of images are not.

    Raises:
        UserError: the name is not UTF-8.
    """
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name of {str(folder)!r} is not UTF-8: rename the folder") from error


def _walk(folder: Path) -> list[tuple[str, str]]:
    """The folder and the name of each image below ``folder``, in no order. Links to folders are followed."""
    found: list[tuple[str, str]] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(folder), frozenset())]
    looked_into = 0
    while pending:
        parent, above = pending.pop()
        looked_into += 1
        if looked_into > MAX_FOLDERS:
            raise UserError(f"{folder} holds more than {MAX_FOLDERS:,} folders: does a link lead out of it?")
        status, entries = _look_into(parent)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise UserError(f"{parent} is a link that leads back to a folder above it: remove it")
        for entry in entries:
            if _is_folder(entry):
                pending.append((os.path.join(parent, entry.name), above | {identity}))
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                _check_is_file(entry)
                found.append((parent, entry.name))
    return found


def _look_into(folder: str | Path) -> tuple[os.stat_result, list[os.DirEntry[str]]]:
    """A folder's status and what it holds, in no order.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return os.stat(folder), list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop
        return False


def _check_is_file(entry: os.DirEntry[str]) -> None:
    """
    Raises:
        UserError: the entry is neither a regular file nor a link to one.
    """
    try:
        regular = entry.is_file()
    except OSError:
        regular = False
    if not regular:
        raise UserError(f"{entry.path} has the name of an image and is not a regular file: remove it")
