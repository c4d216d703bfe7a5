"""Folders of images, also those with links, devices and odd names in them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.folder import list_images, read_class_folders
from tests.fps_pretrain.images.encoded import grey


def write(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(grey(level))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for level, name in enumerate(["cat/b.png", "cat/a/x.PNG", "cat/a-b/y.png", "cat/a/b/z.png", "dog/1.png"]):
        write(tmp_path / "images" / name, level)
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_the_order_is_alphabetical_and_that_of_torchvision(folder: Path) -> None:
    assert list_images(folder) == ["cat/a-b/y.png", "cat/a/b/z.png", "cat/a/x.PNG", "cat/b.png", "dog/1.png"]
    theirs = ImageFolder(str(folder))
    index = read_class_folders(folder)
    assert index.classes == tuple(theirs.classes)
    assert index.labels.tolist() == theirs.targets
    expected = [np.asarray(image)[0, 0, 0] for image, _ in theirs]
    np.testing.assert_array_equal(index.read(8).images[:, 0, 0, 0], expected)


def test_some_rows_only(folder: Path) -> None:
    index = read_class_folders(folder)
    chosen = index.read(8, np.array([4, 0]))
    whole = index.read(8)
    assert chosen.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(chosen.images, whole.take(np.array([4, 0])).images)


def test_classes_that_are_given_number_the_labels(folder: Path) -> None:
    index = read_class_folders(folder, ("emu", "dog", "cat"))
    assert sorted(index.labels.tolist()) == [1, 2, 2, 2, 2]
    with pytest.raises(UserError, match="has the class dog, which is none of the run's: cat"):
        read_class_folders(folder, ("cat",))


def test_a_class_without_images(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images"):
        read_class_folders(folder)
    assert len(read_class_folders(folder, allow_empty=True)) == 5
    with pytest.raises(UserError, match="holds no folder of images for each class"):
        read_class_folders(folder / "empty")


def test_links_to_files_and_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "1.png")
    (folder / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert len(list_images(folder)) == 7
    assert len(read_class_folders(folder)) == 7


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_in_a_loop_are_refused_at_once(folder: Path, target: str) -> None:
    """Two of them make a walk that follows links take forty levels of two folders each."""
    for name in ("loop", "loop2"):
        (folder / "cat" / name).symlink_to(target)
    for read in (list_images, read_class_folders):
        with pytest.raises(UserError, match=r"cat/loop.* is a link that leads back to a folder above it"):
            read(folder)


@pytest.mark.parametrize("kind", ["fifo", "device", "nothing", "itself"])
def test_what_is_called_an_image_and_is_no_file_is_refused(folder: Path, kind: str) -> None:
    path = folder / "cat" / "bad.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "nothing": "missing", "itself": "bad.png"}[kind])
    for read in (list_images, read_class_folders):
        with pytest.raises(UserError, match=r"bad\.png .*is not a regular file"):
            read(folder)


def test_what_is_replaced_by_a_fifo_after_it_was_listed_does_not_hang(folder: Path) -> None:
    index = read_class_folders(folder)
    (folder / "dog" / "1.png").unlink()
    os.mkfifo(folder / "dog" / "1.png")
    with pytest.raises(UserError, match=r"1\.png cannot be read: it is not a regular file"):
        index.read(8)


def test_names_that_are_not_utf8(folder: Path) -> None:
    """Names of images stay what they are; those of classes and users are written into files, and refused."""
    odd = os.fsdecode(b"\xff\xfe")
    write(folder / "cat" / f"{odd}.png")
    assert len(list_images(folder)) == 6
    assert len(read_class_folders(folder).read(8)) == 6
    write(folder / odd / "1.png")
    with pytest.raises(UserError, match=r"the name of '.*\\udcff.*' is not UTF-8"):
        read_class_folders(folder)


def test_user_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must lie in a folder that says who made it"):
        read_class_folders(folder, user_ids="needed")
    assert read_class_folders(folder, user_ids="if there").user_ids is None
    for name in ("cat/ada/1.png", "cat/ben/1.png", "dog/ada/deep/1.png"):
        write(tmp_path / "natural" / name)
    for wanted in ("needed", "if there"):
        index = read_class_folders(tmp_path / "natural", user_ids=wanted)  # type: ignore[arg-type]
        for user_ids, makers in (
            (index.user_ids, ["ada", "ben", "ada"]),
            (index.read(8).user_ids, ["ada", "ben", "ada"]),
            (index.read(8, np.array([2, 1])).user_ids, ["ada", "ben"]),
            (index.read(8).take(np.array([1])).user_ids, ["ben"]),
        ):
            assert user_ids is not None
            assert user_ids.tolist() == makers
    write(tmp_path / "natural" / "dog" / os.fsdecode(b"\xff") / "1.png")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_class_folders(tmp_path / "natural", user_ids="if there")


def test_a_missing_folder(tmp_path: Path) -> None:
    for read in (list_images, read_class_folders):
        with pytest.raises(UserError, match="missing cannot be read: No such file"):
            read(tmp_path / "missing")
