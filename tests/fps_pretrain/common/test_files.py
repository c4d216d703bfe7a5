"""Atomic writes, what kills leave behind, and the lock."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fps_pretrain.common import files
from fps_pretrain.common.errors import UserError
from tests.conftest import REPOSITORY


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text_atomically(path, "old ä")

    def interrupted() -> None:
        with files.open_atomically(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old ä"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_partial_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("not mine")
    (tmp_path / f".a.txt.{os.getpid()}.partial").symlink_to(tmp_path / "other")
    files.write_text_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "other").read_text() == "not mine"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> None:
        with files.create_folder_atomically(tmp_path / "deep" / "run") as partial:
            (partial / "config.yaml").write_text("x")
            assert not (tmp_path / "deep" / "run").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path / "deep") == []
    with files.create_folder_atomically(tmp_path / "deep" / "run") as partial:
        (partial / "config.yaml").write_text("x")
    assert os.listdir(tmp_path / "deep") == ["run"]
    assert os.listdir(tmp_path / "deep" / "run") == ["config.yaml"]


def test_what_killed_processes_left_is_removed(tmp_path: Path, dead_pid: int) -> None:
    """Containers start with the same process ids, so that the own id is a killed process's, too."""
    for pid in (dead_pid, os.getpid(), 10**30):
        (tmp_path / f".run.{pid}.partial").mkdir()
        (tmp_path / f".run.{pid}.partial" / "state.pt").write_text("half")
    (tmp_path / f".other.{dead_pid}.partial").write_text("another's")
    (tmp_path / ".run.1.partial").mkdir()  # of a process that runs
    (tmp_path / ".run.x.partial").write_text("no process's")
    files.remove_stale_partials(tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == [f".other.{dead_pid}.partial", ".run.1.partial", ".run.x.partial"]
    (tmp_path / f".other.{os.getpid()}.partial").symlink_to(tmp_path / ".run.1.partial")
    files.remove_stale_partials(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == [".run.1.partial", ".run.x.partial"]


def test_a_folder_takes_the_place_of_what_a_killed_attempt_left(tmp_path: Path, dead_pid: int) -> None:
    (tmp_path / f".new.{dead_pid}.partial").mkdir()
    with files.create_folder_atomically(tmp_path / "new"):
        pass
    assert os.listdir(tmp_path) == ["new"]


def test_what_another_users_process_writes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, number: int) -> None:
        raise PermissionError

    (tmp_path / ".run.5.partial").mkdir()
    monkeypatch.setattr(os, "kill", refused)
    files.remove_stale_partials(tmp_path / "run")
    assert os.listdir(tmp_path) == [".run.5.partial"]


def test_whoever_has_locked_a_folder_removes_all_that_is_half_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_text("whole")
    (tmp_path / "run" / ".state.pt.1.partial").write_text("half")
    (tmp_path / "run" / ".training-data.partial").mkdir()
    (tmp_path / "run" / ".training-data.partial" / "images.npy").write_text("half")
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / ".link.partial").symlink_to(tmp_path / "other")
    files.remove_partials(tmp_path / "run")
    assert os.listdir(tmp_path / "run") == ["state.pt"]
    assert (tmp_path / "other").is_dir()


def test_an_existing_output_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert files.keep_existing(path) is None
    for number in (1, 2):
        path.write_text(str(number))
        assert files.keep_existing(path) == tmp_path / f"a.{number}.pt"
    assert not path.exists()


def test_the_place_of_an_existing_output_is_free_of_links_too(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("kept")
    (tmp_path / "a.1.pt").symlink_to("a disk that is not there")
    assert files.keep_existing(tmp_path / "a.pt") == tmp_path / "a.2.pt"
    assert (tmp_path / "a.1.pt").is_symlink()


def test_a_folder_with_a_dot_in_its_name_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "run.v2").mkdir()
    assert files.keep_existing(tmp_path / "run.v2") == tmp_path / "run.v2.1"


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_only_files_and_folders_are_moved_aside(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.fspath(path))
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"a\.pt is neither a file nor a folder"):
        files.keep_existing(path)
    assert os.listdir(tmp_path) == ["a.pt"]


def hold(folder: Path, held: multiprocessing.synchronize.Event, child: multiprocessing.synchronize.Event) -> None:
    with files.locked(folder):
        if os.fork() == 0:  # as a DataLoader's worker does, which outlives a killed parent for seconds
            child.wait(60)
            os._exit(0)
        held.set()
        signal.pause()


def test_one_process_at_a_time_and_a_killed_one_does_not_count(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, child = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, child))
    process.start()
    try:
        assert held.wait(60)
        with (
            pytest.raises(UserError, match=f"^{tmp_path} is being worked on by another process$"),
            files.locked(tmp_path),
        ):
            pass
    finally:
        process.kill()
        process.join()
    with files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass
    child.set()


def test_the_lock_excludes_within_a_process_and_moves_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with files.locked(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="worked on by another process"), files.locked(tmp_path / "moved"):
            pass
    with files.locked(tmp_path / "moved"):
        pass


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"\.lock cannot be locked"), files.locked(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_reading_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert files.read_regular_file(tmp_path / "link", 3) == b"abc"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in (
        ("a", "3 bytes are more than 2"),
        ("fifo", "not a regular file"),
        ("zero", "not a regular file"),
        ("", "not a regular file"),
        ("loop", "symbolic links"),
        ("missing", "No such file"),
        ("nul\0", "cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            files.read_regular_file(tmp_path / name, 2)


def test_reading_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("é\r\nb\rc\n".encode())
    assert files.read_text(tmp_path / "a") == "é\nb\nc\n"
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"^--list cannot be read: it is not text in UTF-8$"):
        files.read_text(tmp_path / "a", name="--list")


def test_a_full_disk_says_what_there_was_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_bytes_atomically(tmp_path / "a", b"new")
    assert error.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (Path("x" * 220), None),
        (Path("x" * 221), "a name takes 220 bytes"),
        (Path("ä" * 111), "a name takes 220 bytes"),
        (Path(*["x" * 199] * 19), None),  # 3,800 bytes with the strokes between
        (Path(*["x" * 199] * 18, "x" * 200), "a path 3800"),
    ],
)
def test_places_whose_names_leave_no_room_are_refused(path: Path, words: str | None) -> None:
    if words is None:
        files.check_output("--output", path)
    else:
        with pytest.raises(UserError, match=f"^--output .*is too long: .*{words}"):
            files.check_output("--output", path)


def test_a_link_to_nothing_is_no_place_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match=f"^--output {tmp_path / 'a'} is a link to nothing"):
        files.check_output("--output", tmp_path / "a")


def test_only_files_are_written_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is neither a file nor a folder and is not replaced"):
        files.write_bytes_atomically(tmp_path / "fifo", b"new")
    assert (tmp_path / "fifo").is_fifo()
    assert os.listdir(tmp_path) == ["fifo"]


def test_no_second_atomic_writer() -> None:
    """Whoever names a partial file or renames over a file does what common/files.py does already."""
    allowed = {"fps_pretrain/common/files.py", "fps_pretrain/training/resume.py"}
    for room in ("fps_pretrain", "federated", "experiments"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if any(words in text for words in ("os.replace(", "}.partial")):
                assert path.relative_to(REPOSITORY).as_posix() in allowed
