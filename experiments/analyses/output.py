"""What an analysis leaves: NAME.csv with every number, NAME.txt with the answer in words, NAME.png with a picture."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.report.arms import labelled
from experiments.report.runs import Run, read_config
from fps_pretrain.common import plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import check_output, csv_text, write_text_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path("runs/analyses")
"""Where the programs write without ``--output``."""


@dataclass(frozen=True)
class Result:
    """An analysis' answer.

    Attributes:
        name: of its files.
        sentences: the answer in words.
        header: columns of the table.
        rows: what was measured, one row a line.
        figure: the picture.
    """

    name: str
    sentences: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    figure: Figure | None = None


def by_arm(folders: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """The arms' labels, in the order of their colours, with those of ``folders`` that hold their runs.

    Raises:
        UserError: a folder is no run.
    """
    runs = [Run(read_config(folder), [], folder) for folder in dict.fromkeys(folders)]
    return [(label, [run.folder for run in members]) for label, members in labelled(runs)]


def named(result: Result, name: str) -> Result:
    """The result under another name, where one analysis is made several times."""
    return replace(result, name=name)


def write(folder: Path, result: Result) -> None:
    """Write an analysis' files into ``folder``, made if need be, and say the answer on stdout."""
    check_output("--output", folder)
    if folder.is_file():
        raise UserError(f"--output {folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    rows: Iterable[Iterable[object]] = (
        [f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in result.rows
    )
    write_text_atomically(folder / f"{result.name}.csv", csv_text(result.header, rows))
    if result.figure is not None:
        plots.save(result.figure, folder / f"{result.name}.png")
    text = " ".join(result.sentences)
    write_text_atomically(folder / f"{result.name}.txt", text + "\n")
    print("\n".join(result.sentences))
    print(f"wrote {folder / result.name}.csv, .txt and .png", file=sys.stderr)
