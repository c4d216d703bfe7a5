"""Classify images with a finished run: python -m federated.predict runs/NAME photos/ --output predictions.csv.

A CSV row for each image: its path, the most probable class and its probability, then the probability of each class.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import check_output, csv_text, read_text, write_bytes_atomically

PROG = "federated.predict"


@dataclass(frozen=True)
class Command:
    """What the command line says."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or a classifier file."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files, and folders of them of any depth."""
    output: Path | None = None
    """CSV file (default: print it)."""
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Picture of the images the classifier is most and least certain of."""
    best: bool = False
    """Use the round with the highest validation accuracy, kept by --keep-best, and not the last."""
    client: int | None = None
    """Use the model of this client, which keeps a part of it (--personal head, --bn-stats local)."""
    classes: Path | None = None
    """Text file with other names for the classes, one a line, in the order of their labels."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that computes; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        if not self.images:
            raise UserError("name image files, or a folder of them, behind the run")
        for flag, path in (("--output", self.output), ("--sheet", self.sheet)):
            if path is not None:
                check_output(flag, path)
                if path.is_dir():
                    raise UserError(f"{flag} {path} is a folder: name a file")


def main(command: Command) -> int:
    """Write the CSV and the sheet; returns the exit code. Nothing is written if an image cannot be read."""
    from federated.results.classifier import load_classifier

    paths = find_images(command.images)
    _check_outputs(command, paths)
    names = read_classes(command.classes) if command.classes else None
    classifier = load_classifier(
        command.run, best=command.best, client=command.client, classes=names, device=command.device
    )
    probabilities = classifier(paths).probabilities
    content = table(paths, classifier.classes, probabilities)
    for path in filter(None, (command.output, command.sheet)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if command.sheet:
        from federated.results.sheet import draw

        draw(command.sheet, classifier, paths, probabilities)
    if command.output:
        write_bytes_atomically(command.output, content)
    else:
        sys.stdout.buffer.write(content)
    return 0


def _check_outputs(command: Command, images: Sequence[Path]) -> None:
    """Refuse to write over what is read, or what a run owns.

    Raises:
        UserError: as said, or both outputs are one file.
    """
    from federated.results.own_files import check_not_own

    if command.output and command.sheet and command.output.resolve() == command.sheet.resolve():
        raise UserError(f"--output and --sheet are both {command.sheet}: name two files")
    read = {path.resolve() for path in (*images, command.run, command.classes) if path is not None}
    for flag, path in (("--output", command.output), ("--sheet", command.sheet)):
        if path is None:
            continue
        if path.resolve() in read:
            raise UserError(f"{flag} {path} is read, too: name another file")
        check_not_own(flag, path)


def find_images(given: Sequence[Path]) -> list[Path]:
    """The files that are given and, in alphabetical order, the images in the folders that are given.

    Raises:
        UserError: there is no such file, or a folder has no images.
    """
    from fps_pretrain.images.folder import IMAGE_SUFFIXES, list_images

    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [path / name for name in list_images(path)]
            if not inside:
                raise UserError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            found += inside
        elif not path.exists():
            raise UserError(f"{path} does not exist")
        else:
            found.append(path)
    return found


def read_classes(path: Path) -> list[str]:
    """The class names in a text file (UTF-8), one a line; empty lines are left out.

    Raises:
        UserError: the file cannot be read.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def table(paths: Sequence[Path], classes: Sequence[str], probabilities: NDArray[np.float32]) -> bytes:
    """The CSV file's content; a path that is not UTF-8 keeps its bytes."""
    rows = (
        [path, classes[best], f"{row[best]:.6f}", *(f"{value:.6f}" for value in row)]
        for path, row, best in zip(paths, probabilities, probabilities.argmax(1), strict=True)
    )
    return csv_text(["image", "class", "probability", *classes], rows).encode("utf-8", "surrogateescape")
