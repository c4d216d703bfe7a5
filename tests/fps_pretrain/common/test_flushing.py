"""What reaches the disk, and when: a file or folder before it has its name, the name after that."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fps_pretrain.common import files

Flushed = list[tuple[int, int, bool]]


@pytest.fixture
def flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flushed:
    """What is flushed: its inode, its length (0 for a folder), and whether ``new`` was there by then."""
    seen: Flushed = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        length = status.st_size if stat.S_ISREG(status.st_mode) else 0
        seen.append((status.st_ino, length, (tmp_path / "new").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_file_is_on_disk_whole_before_it_has_its_name(tmp_path: Path, flushed: Flushed) -> None:
    files.write_bytes_atomically(tmp_path / "new", b"12345")
    assert flushed == [(inode(tmp_path / "new"), 5, False), (inode(tmp_path), 0, True)]


def test_a_folder_is_on_disk_before_it_has_its_name(tmp_path: Path, flushed: Flushed) -> None:
    with files.create_folder_atomically(tmp_path / "new"):
        pass
    assert flushed == [(inode(tmp_path / "new"), 0, False), (inode(tmp_path), 0, True)]


def test_whoever_reads_a_file_that_is_replaced_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with (tmp_path / "a").open() as reader:
        files.write_text_atomically(tmp_path / "a", "new and longer")
        assert reader.read() == "old"
    assert (tmp_path / "a").read_text() == "new and longer"
