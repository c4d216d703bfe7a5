"""Data sets in the files of their own libraries, and Tiny-ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.images.known import has_cifar, read_cifar, read_digits
from fps_pretrain.images.tiny_imagenet import read_tiny_imagenet
from tests.fps_pretrain.images.encoded import encoded


def test_digits() -> None:
    train, test = read_digits(train=True), read_digits(train=False)
    assert (len(train), len(test)) == (1437, 360)
    assert train.classes == test.classes == tuple("0123456789")
    table = test.read(32, np.array([0, 5]))
    assert table.images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(table.labels, test.labels[[0, 5]])
    whole = test.read(8).images
    np.testing.assert_array_equal(test.read(8, np.array([5, 0])).images, whole[[5, 0]])
    assert set(np.unique(whole)) == {round(level * 255 / 16) for level in range(17)}
    assert (whole == whole[..., :1]).all()
    assert test.read(32, np.array([], np.int64)).images.shape == (0, 32, 32, 3)


def test_cifar_is_known_by_its_checksums(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"a pickle of somebody else's")
    os.mkfifo(tmp_path / "cifar-10-batches-py" / "data_batch_2")
    assert not has_cifar("cifar10", tmp_path)
    with pytest.raises(UserError, match="does not hold cifar10"):
        read_cifar("cifar10", tmp_path, train=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of tiny-imagenet-200 with two classes."""
    jpeg = encoded(np.full((9, 9, 3), 100, np.uint8), "JPEG")
    for identifier in ("n01", "n02"):
        (tmp_path / "train" / identifier / "images").mkdir(parents=True)
        (tmp_path / "train" / identifier / "images" / "0.JPEG").write_bytes(jpeg)
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "images" / "0.JPEG").write_bytes(jpeg)
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    (tmp_path / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("0.JPEG\tn01\t0\t0\t9\t9\n")
    return tmp_path


def test_tiny_imagenet(root: Path) -> None:
    train, test = read_tiny_imagenet(root)
    assert train.classes == ("bullfrog", "goldfish")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [1])
    assert len(train.read(8)) == 2


def test_tiny_imagenets_classes_have_names_of_their_own(root: Path) -> None:
    (root / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane, machine\n")
    assert read_tiny_imagenet(root)[0].classes == ("crane, machine", "crane, bird")
    (root / "words.txt").write_text("n01\tcrane\nn02\tcrane\n")
    assert read_tiny_imagenet(root)[0].classes == ("crane (n02)", "crane (n01)")


def test_a_partly_unpacked_tiny_imagenet_is_refused(root: Path) -> None:
    (root / "train" / "n01" / "images" / "0.JPEG").unlink()
    with pytest.raises(UserError, match="n01 holds no images"):
        read_tiny_imagenet(root)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("wnids.txt", os.urandom(100) + b"\xff", "not text in UTF-8"),
        ("words.txt", b"\xff\xfe\x00", "not text in UTF-8"),
        ("val/val_annotations.txt", b"\x80", "not text in UTF-8"),
        ("wnids.txt", b"n01\nn01\n", "list each class's folder once"),
        ("wnids.txt", b"../../etc\n", "list each class's folder once"),
        ("wnids.txt", b"n01\0\n", "list each class's folder once"),
        ("val/val_annotations.txt", b"0.JPEG\tn09\n", "damaged in line 1"),
        ("val/val_annotations.txt", b"0.JPEG\tn01\n../0.JPEG\tn01\n", "damaged in line 2"),
        ("val/val_annotations.txt", b"0\0.JPEG\tn01\n", "damaged in line 1"),
        ("val/val_annotations.txt", b"0.JPEG\n", "damaged in line 1"),
    ],
)
def test_damaged_lists_are_named(root: Path, name: str, content: bytes, words: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{words}"):
        read_tiny_imagenet(root)


def test_missing_lists(root: Path) -> None:
    (root / "words.txt").unlink()
    os.mkfifo(root / "words.txt")
    with pytest.raises(UserError, match=r"lacks words\.txt"):
        read_tiny_imagenet(root)
