"""Committed results as tables: ``python -m experiments.table RESULTS... [--format latex]``.

With ``--update DOCUMENT`` the tables of a Markdown document are written anew from the files that they name: each stands
between the lines ``<!-- table: FILE... -->``, with FILE relative to the document, and ``<!-- end of table -->``.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.report.text_tables import latex, markdown, read
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text, write_text_atomically

PROG = "experiments.table"

_BLOCK = re.compile(r"(?P<begin>^<!-- table: (?P<arguments>.*?) -->\n).*?(?P<end>^<!-- end of table -->$)", re.M | re.S)


@dataclass(frozen=True)
class TableConfig:
    """Print results as tables, or write those of a document anew."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RESULT ...]")] = ()
    """Folders, or files summary.csv, tuning.csv and curve.csv."""
    format: Literal["markdown", "latex"] = "markdown"
    """Language of the tables."""
    pairs: tuple[int, ...] = ()
    """Of curves, only encoders that have seen so many pairs; none for all."""
    against: str = ""
    """Of curves, the label that the others' linear accuracies of as many pairs are compared with."""
    update: Path | None = None
    """Markdown document whose tables are written anew."""

    def __post_init__(self) -> None:
        """Check that there is something to do.

        Raises:
            UserError: there is nothing, or two things.
        """
        if bool(self.results) == (self.update is not None):
            raise UserError("name results, or a document with --update")


def text(config: TableConfig) -> str:
    """The tables of ``config.results``, an empty line between them.

    Raises:
        UserError: a file is missing or not one that the programs write.
    """
    write = {"markdown": markdown, "latex": latex}[config.format]
    return "\n".join(write(table) for table in read(config.results, config.pairs, config.against))


def updated(document: Path) -> str:
    """The document's text with its tables written anew; the file is left as it is.

    Raises:
        UserError: it cannot be read, or a table's files cannot.
    """
    content = read_text(document)

    def block(match: re.Match[str]) -> str:
        try:
            arguments = shlex.split(match["arguments"])
        except ValueError as error:
            raise UserError(f"{document}: a table's line, '{match['arguments']}': {error}") from error
        config = cli.parse(TableConfig, PROG, arguments)
        config = replace(config, results=tuple(document.parent / path for path in config.results))
        return match["begin"] + "\n" + text(config) + "\n" + match["end"]

    return _BLOCK.sub(block, content)


def main(config: TableConfig) -> int:
    """Print tables or update a document; returns the exit code."""
    if config.update is None:
        print(text(config), end="")
    else:
        write_text_atomically(config.update, updated(config.update))
        print(f"wrote {config.update}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(TableConfig, PROG)))
