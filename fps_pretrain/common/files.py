"""Files and folders that are written whole or not at all, and a lock so that one process at a time writes them.

A file is written beside its place as ``.NAME.PID.partial``, flushed to disk and renamed. A reader sees the old file or
the new one, also after a power failure. What a killed process left half-written is named after its process id, so
that the next one can tell it from what is being written now.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from fps_pretrain.common.errors import UserError

LOCK = ".lock"
"""The file in a run folder that its owner locks. It stays there; only the lock on it matters."""

PARTIALS = ".*.partial"
"""What is half-written in a folder, as a pattern."""


def sync_folder(folder: Path) -> None:
    """Make what was renamed in ``folder`` survive a power failure, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial(path: Path) -> Path:
    """Where this process writes ``path`` before it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _check_replaceable(path: Path, shown: str = "") -> None:
    """Refuse to write in the place of a device, FIFO or socket; messages call it ``shown``, or by its path."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{shown or path} is neither a file nor a folder and is not replaced: name another place")


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes ``path`` when the block ends, and disappears when the block fails.

    Raises:
        OSError: the file cannot be written. The old one is as it was.
        UserError: a device, FIFO or socket is in its place. It is left alone.
    """
    partial = _partial(path)
    _check_replaceable(path)
    try:
        partial.unlink(missing_ok=True)  # never write through a link of that name
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:  # a full disk does not say what it had no room for
            error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Replace a file; see ``open_atomically``."""
    with open_atomically(path) as file:
        file.write(content)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a text file (UTF-8); see ``open_atomically``."""
    write_bytes_atomically(path, text.encode("utf-8"))


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV, one line a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


@contextlib.contextmanager
def create_folder_atomically(path: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes ``path`` when the block ends, and disappears when the block fails.

    What killed processes left of their attempts to create ``path`` is removed first.

    Raises:
        OSError: the folder cannot be written, or something is in its place. An empty folder is replaced.
    """
    remove_stale_partials(path)
    partial = _partial(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_folder(partial)
        partial.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_stale_partials(path: Path) -> None:
    """Remove the half-written versions of ``path`` (``.NAME.PID.partial``) whose process no longer runs.

    One with the id of this process is left from an earlier process: containers start with the same ids every time.
    Process ids are those of this machine; do not call this on a folder that other machines write at the same time.
    """
    pattern = re.compile(re.escape(f".{path.name}.") + r"(\d+)\.partial", re.ASCII)
    for sibling in path.parent.iterdir() if path.parent.is_dir() else ():
        match = pattern.fullmatch(sibling.name)
        if match is None or (int(match[1]) != os.getpid() and _is_running(int(match[1]))):
            continue
        with contextlib.suppress(OSError):
            _remove(sibling)


def remove_partials(folder: Path) -> None:
    """Remove what interrupted writes left in a folder that this process has locked."""
    for path in folder.glob(PARTIALS):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder or a file; of a link to either, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it is another user's
    except (ProcessLookupError, OverflowError):
        return False
    return True


MAX_NAME = 220
"""Bytes of a name that is written; file systems take 255, and names of what is half-written are longer."""

MAX_PATH = 3800
"""Bytes of a whole path; Linux takes 4095."""


def check_output(flag: str, path: Path) -> None:
    """Refuse a place that nothing can be written to, or where something else than a file or folder is.

    Args:
        flag: what messages call it, such as ``--output``.
        path: where a file or a folder is to be.

    Raises:
        UserError: the path names nothing, is too long or not encodable, or leads to a device, FIFO or socket, to a link
            to nothing, or around in circles. Nothing is changed.
    """
    shown = repr(str(path))
    if path.name in ("", ".."):
        raise UserError(f"{flag} {shown} is no name: name a file or folder")
    try:
        lengths = [len(os.fsencode(part)) for part in path.parts]
    except UnicodeEncodeError:
        raise UserError(f"{flag} {str(path)!a} holds a character that a file's name cannot hold") from None
    if "\0" in str(path):
        raise UserError(f"{flag} {shown} holds a NUL, which a file's name cannot hold")
    if max(lengths) > MAX_NAME or sum(lengths) + len(lengths) > MAX_PATH:
        raise UserError(f"{flag} {shown[:40]}... is too long: a name takes {MAX_NAME} bytes, a path {MAX_PATH}")
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{flag} {path} is a link to nothing: name another place") from None
        return
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be used: {error.strerror}") from error
    _check_replaceable(path, f"{flag} {path}")


def keep_existing(path: Path) -> Path | None:
    """Rename an existing file ``name.pt`` to ``name.1.pt``, a folder ``name`` to ``name.1`` (the first free number).

    Returns:
        Where it is now, or None if there was nothing.

    Raises:
        UserError: it is a device, a FIFO or a socket, or another process works in the folder. It is left alone.
    """
    if not path.exists():
        return None
    _check_replaceable(path)
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    with locked(path) if (path / LOCK).exists() else contextlib.nullcontext():
        while os.path.lexists(kept := path.with_name(f"{stem}.{number}{suffix}")):
            number += 1
        path.rename(kept)
    return kept


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working in ``folder`` while the block runs.

    The kernel holds the lock for the open file ``folder/.lock``, so that it ends with its process, however that dies.
    A link of that name is not followed. The lock moves with the folder when that is renamed.

    Raises:
        UserError: another process works there, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is being worked on by another process") from None
    except OSError as error:
        raise UserError(f"{folder / LOCK} cannot be locked: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def wait_for_unlock(folder: Path) -> None:
    """Wait until no process keeps ``folder`` locked; see ``locked``. The lock is not kept.

    Raises:
        OSError: it never was locked, or has no lock that can be waited for.
    """
    with (folder / LOCK).open("rb+") as file:  # network file systems lock only what may be written
        fcntl.flock(file, fcntl.LOCK_EX)  # as FileLock does on POSIX systems


def read_regular_file(path: Path, max_bytes: int, name: str = "") -> bytes:
    """The content of a regular file, or of what a link to one leads to; a device or FIFO is never read.

    Args:
        path: the file.
        max_bytes: how long it may be.
        name: what messages call it; its path if left out.

    Raises:
        UserError: it is none, is longer than ``max_bytes``, or cannot be read.
    """
    name = name or str(path)
    try:
        # Opening a FIFO without O_NONBLOCK would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{name!r} cannot be read: {error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{name} cannot be read: it is not a regular file")
        if status.st_size > max_bytes:
            raise UserError(f"{name} cannot be read: its {status.st_size:,} bytes are more than {max_bytes:,}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


MAX_TEXT = 2**24
"""Bytes of the longest text file that is read."""


def read_text(path: Path, max_bytes: int = MAX_TEXT, name: str = "") -> str:
    """The text (UTF-8) of a regular file, its lines ending in a newline character; see ``read_regular_file``.

    Raises:
        UserError: as there, or it is not text.
    """
    try:
        text = read_regular_file(path, max_bytes, name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name or path} cannot be read: it is not text in UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
