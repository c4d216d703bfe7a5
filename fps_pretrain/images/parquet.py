"""Tables in the Hugging Face layout: a column of encoded images and one of integer labels.

A cell of the image column holds the encoded bytes, or a pair of ``bytes`` and ``path``. A path is used only where there
are no bytes, and only if it leads to a regular file inside the folders that the caller names.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.decode import decode_all, read_image_file
from fps_pretrain.images.table import ImageIndex, Images, Rows

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
"""Names that the columns may have; the first that is there is taken."""


@dataclass(frozen=True)
class ArrowSource:
    """A table, and how messages name its rows.

    Attributes:
        table: a ``pyarrow.Table``.
        name: what messages call the whole.
        files: the files it was read from, one after the other, with the number of rows of each; empty for the hub's.
        folders: where path cells may lead.
    """

    table: Any
    name: str
    files: tuple[tuple[Path, int], ...] = ()
    folders: tuple[Path, ...] = ()

    def name_of(self, row: int) -> str:
        """The file and the number in it of an image, both as a user counts them: from 0."""
        if not self.files:
            return f"{self.name} image {row}"
        ends = list(accumulate(rows for _, rows in self.files))
        number = bisect_right(ends, row)
        return f"{self.files[number][0]} image {row - (ends[number - 1] if number else 0)}"


def find_parquet(root: Path, names: Sequence[str]) -> list[Path]:
    """The files below ``root`` called ``NAME*.parquet``, for the first of ``names`` that has any; sorted.

    A folder of that name is one table in several files, which are not named again.
    """
    for name in names:
        if files := sorted(root.rglob(f"{name}*.parquet")):
            return [file for file in files if not set(file.parents) & set(files)]
    return []


def read_parquet(files: Sequence[Path], name: str, root: Path) -> ArrowSource:
    """Parquet files as one table.

    Args:
        files: at least one.
        name: what messages call all of them.
        root: the folder that path cells may lead into.

    Raises:
        UserError: a file is not a file, is truncated or is no Parquet, or their columns differ.
    """
    import pyarrow
    import pyarrow.parquet

    tables = []
    for file in files:
        if not (file.is_file() or file.is_dir()):  # a folder of that name holds one table in several files
            raise UserError(f"{file} cannot be read as Parquet: it is not a regular file")
        try:
            tables.append(pyarrow.parquet.read_table(file))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as Parquet: {error}") from error
    try:
        table = pyarrow.concat_tables(tables)
    except pyarrow.ArrowException as error:
        raise UserError(f"{files[0]} cannot be read as Parquet with the files beside it: {error}") from error
    counts = tuple((file, len(part)) for file, part in zip(files, tables, strict=True))
    return ArrowSource(table, name, counts, (root,))


def index_table(source: ArrowSource, id_column: str = "") -> ImageIndex:
    """Find images, labels, user ids and the names of the classes in a table.

    Labels are returned as they are stored, of any value; the names are empty where the schema has none.

    Args:
        source: the table.
        id_column: the column that says who made an image; "" for none. A table without it gives no user ids.

    Raises:
        UserError: columns are missing, are of another type or hold empty cells; or the schema's metadata are damaged.
            Images are not read yet.
    """
    import pyarrow

    try:
        return _index_table(source, id_column)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{source.name}: its table is damaged: {error}") from error


def _index_table(source: ArrowSource, id_column: str) -> ImageIndex:
    import pyarrow

    table, name = source.table, source.name
    image = _column(source, IMAGE_COLUMNS)
    label = _column(source, LABEL_COLUMNS)
    if not pyarrow.types.is_integer(table.schema.field(label).type):
        raise UserError(f"{name}: labels in column {label} must be integers 0, 1, 2, ...")
    for column in (label, id_column):
        if column in table.column_names and table.column(column).null_count:
            raise UserError(f"{name}: some values in column {column} are missing")
    user_ids = None
    if id_column in table.column_names:
        user_ids = np.array([str(value) for value in table.column(id_column).to_pylist()], dtype=np.str_)

    def pixels(rows: Rows, image_size: int) -> Images:
        # Rows one by one rather than column.take: that cannot join the parts of a column beyond 2 GB.
        column = table.column(image)
        cells = column.to_pylist() if len(rows) == len(table) else [column[int(row)].as_py() for row in rows]
        names = [source.name_of(int(row)) for row in rows]
        readers = [_cell_reader(cell, name, source.folders) for cell, name in zip(cells, names, strict=True)]
        return decode_all(readers, names, image_size)

    labels = table.column(label).to_numpy().astype(np.int64)
    return ImageIndex(labels, pixels, user_ids, _class_names(source, label))


def _column(source: ArrowSource, names: Sequence[str]) -> str:
    """The first of ``names`` that is a column, once."""
    columns = source.table.column_names
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise UserError(
            f"{source.name} has the columns {', '.join(columns)}; it needs an image column "
            f"({', '.join(IMAGE_COLUMNS)}) and a label column ({', '.join(LABEL_COLUMNS)})"
        )
    if columns.count(found) > 1:
        raise UserError(f"{source.name} has {columns.count(found)} columns called {found}")
    return found


def _class_names(source: ArrowSource, label: str) -> tuple[str, ...]:
    """The names that a Hugging Face schema keeps for its label column, or nothing."""
    damaged = UserError(f"{source.name}: the Hugging Face metadata in its schema are damaged")
    try:
        value = json.loads((source.table.schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError) as error:
        raise damaged from error
    for key in ("info", "features", label):
        if not isinstance(value, dict):
            raise damaged
        value = value.get(key, {})
    names = value.get("names") if isinstance(value, dict) else damaged
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_utf8(name) for name in names):
        raise damaged
    return tuple(names)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cell_reader(cell: Any, name: str, folders: Sequence[Path]) -> Callable[[], bytes]:
    """How to get the encoded bytes of an image cell: bytes, or the Hugging Face pair of bytes and path."""
    if isinstance(cell, bytes):
        return lambda: cell
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return lambda: cell["bytes"]
    if isinstance(cell, dict) and isinstance(cell.get("path"), str):
        return lambda: _read_path_cell(cell["path"], name, folders)
    raise UserError(f"{name} is not an image: its cell holds no encoded bytes")


def _read_path_cell(text: str, name: str, folders: Sequence[Path]) -> bytes:
    """What a path cell leads to: a regular file inside one of ``folders``, nothing else on this machine.

    Raises:
        UserError: it leads elsewhere, or to something else.
    """
    try:
        inside = [path for folder in folders if (path := (folder / text).resolve()).is_relative_to(folder.resolve())]
    except (ValueError, OSError, RuntimeError):  # a NUL, a name too long, a link in a loop
        inside = []
    lack = f"{name} is not an image: its cell has no bytes, and the path {text[:200]!r}"
    if not inside:
        raise UserError(f"{lack} is not inside {' or '.join(map(str, folders)) or 'the table'}")
    found = next((path for path in inside if os.path.exists(path)), None)
    if found is None:
        raise UserError(f"{lack} leads to no file")
    return read_image_file(found)
