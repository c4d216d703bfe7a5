"""Which data set a configuration names: its subsets, its validation split, and what a node holds itself.

Reading is done by ``fps_pretrain.images``. Nothing a user's file holds is unpickled; CIFAR's original batches are
pickles, which torchvision opens only when their checksums are the published ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federated.config.run import RunConfig
from federated.data.downloads import find_cifar, load_hub
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import numpy_rng
from fps_pretrain.images.folder import read_class_folders
from fps_pretrain.images.known import read_cifar, read_digits
from fps_pretrain.images.parquet import ArrowSource, find_parquet, index_table, read_parquet
from fps_pretrain.images.table import ImageIndex, ImageTable
from fps_pretrain.images.tiny_imagenet import read_tiny_imagenet

Split = ImageTable
"""A part of a data set: uint8 images ``(N, S, S, 3)``, labels ``(N,)`` and, where it is asked for, who made each."""

DATA_SEED = 0
"""Seed of what belongs to the data set, not to a run: the subsets and the validation split."""

MAX_CLASSES = 2**16
"""Classes of the largest data set; a label beyond is a mistake, and costs a head with an output for each number."""

TEST_NAMES = ("test", "val", "validation", "valid")
"""What the test examples may be called; the first that is there is taken."""


@dataclass(frozen=True)
class Dataset:
    """What the clients share (``train``), what is held out from them (``validation``, may be empty), and ``test``."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 over all images and labels: a run is resumed only on the data it began with."""
        sha = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            sha.update(f"{split.images.shape} ".encode())
            sha.update(split.images.tobytes())
            sha.update(split.labels.tobytes())
            if split.user_ids is not None:
                sha.update("\n".join(split.user_ids).encode())
        return sha.hexdigest()


def load(config: RunConfig) -> Dataset:
    """The data set a configuration names, its subsets and validation split drawn; kept for the next run of the process.

    Raises:
        UserError: the data are not there, cannot be downloaded or read, or hold fewer examples than asked for.
    """
    assert config.image_size is not None
    natural, nodes = config.partition == "natural", config.partition == "nodes"
    where = (config.dataset, config.data_dir, config.image_size, config.id_column or "")
    train, test, classes = _load(*where, config.limit_train, config.limit_test, natural=natural, nodes=nodes)
    if len(classes) < 2:
        raise UserError(f"--dataset {config.dataset} has one class, {classes[0]}: there is nothing to tell apart")
    if nodes:
        return Dataset(train, train, test, classes)
    held_out = round(len(train) * config.validation)
    if config.validation and not 0 < held_out < len(train):
        raise UserError(
            f"--validation {config.validation} of {len(train)} training examples leaves nothing to one side"
        )
    order = numpy_rng(DATA_SEED, "validation").permutation(len(train))
    validation = train.take(np.sort(order[:held_out]))
    return Dataset(train.take(np.sort(order[held_out:])), validation, test, classes)


@lru_cache(maxsize=1)
def _load(
    dataset: str,
    data_dir: Path | None,
    image_size: int,
    id_column: str,
    limit_train: int | None,
    limit_test: int | None,
    *,
    natural: bool,
    nodes: bool,
) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and test examples, as many as asked for, and the classes; kept for the next run of this process."""
    train, test = _find(dataset, data_dir, id_column, natural=natural, nodes=nodes)
    classes = train.classes
    if len(classes) > MAX_CLASSES:
        raise UserError(f"--dataset {dataset} has {len(classes):,} classes; at most {MAX_CLASSES:,} are possible")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"--dataset {dataset} has two classes called {twice}: name each as one")
    for name, index in (("training", train), ("test", test)):
        if not len(index) and not (nodes and name == "training"):
            raise UserError(f"--dataset {dataset} holds no {name} examples")
    # With data at the nodes, what the server has of training examples is nobody's.
    rows = np.empty(0, np.int64) if nodes else _subset(len(train), limit_train, "train")
    return train.read(image_size, rows), test.read(image_size, _subset(len(test), limit_test, "test")), classes


def _find(
    dataset: str, data_dir: Path | None, id_column: str, *, natural: bool, nodes: bool
) -> tuple[ImageIndex, ImageIndex]:
    """Training and test examples, with the same classes; their images are not read yet."""
    kind, _, where = dataset.partition(":")
    if kind == "digits":
        return read_digits(train=True), read_digits(train=False)
    if kind in ("cifar10", "cifar100"):
        if data_dir is not None and all((data_dir / f"{split}.parquet").is_file() for split in ("train", "test")):
            return _parquet(data_dir, "")
        root = find_cifar(kind, data_dir)
        return read_cifar(kind, root, train=True), read_cifar(kind, root, train=False)
    if kind == "tiny-imagenet":
        assert data_dir is not None
        return read_tiny_imagenet(data_dir)
    if kind == "folder":
        return _folder(Path(where), natural=natural, nodes=nodes)
    if kind == "parquet":
        return _parquet(Path(where), id_column)
    return _hub(where, data_dir, id_column)


def load_of_node(where: Path, config: RunConfig, classes: Sequence[str]) -> tuple[Split, Split]:
    """The training and test examples in a node's own folder, with the labels of the run's ``classes``.

    Args:
        where: ``train/CLASS/*.png`` and, for evaluating the global model there, ``test/CLASS/*.png``; or
            ``train*.parquet`` and ``test*.parquet`` with integer labels. Without test examples they are empty.
        config: the run, for the image size.
        classes: the run's class names, in the order of their labels; a node need not have all.

    Raises:
        UserError: the data are not there, cannot be read, or have classes that are not the run's.
    """
    assert config.image_size is not None
    splits = [index.read(config.image_size) for index in _find_of_node(where, tuple(classes))]
    train = splits[0]
    return train, splits[1] if len(splits) > 1 else train.none()


def _find_of_node(where: Path, classes: tuple[str, ...]) -> list[ImageIndex]:
    """A node's training examples and, where there are any, its test examples."""
    if (where / "train").is_dir():
        folders = [where / "train", _test_folder(where)]
        return [read_class_folders(folder, classes) for folder in folders if folder]
    if not find_parquet(where, ("train",)):
        raise UserError(f"{where} holds neither train/ with one folder of images a class nor train*.parquet")
    found = []
    for names in (("train",), TEST_NAMES):
        if files := find_parquet(where, names):
            index = _by_name(index_table(read_parquet(files, str(where), where)), classes, str(where))
            _check_labels(index, len(classes), str(where))
            found.append(index)
    return found


def _by_name(index: ImageIndex, classes: tuple[str, ...], source: str) -> ImageIndex:
    """The examples with the labels that their classes' names have among ``classes``; as they are if they name none.

    Raises:
        UserError: one has another name.
    """
    if not index.classes:
        return index
    if unknown := set(index.classes) - set(classes):
        raise UserError(f"{source}: the class {min(unknown)} is none of the run's: {', '.join(classes[:5])}, ...")
    label_of = np.array([classes.index(name) for name in index.classes], np.int64)
    _check_labels(index, len(index.classes), source)
    return dataclasses.replace(index, labels=label_of[index.labels], classes=classes)


def _subset(count: int, limit: int | None, name: str) -> NDArray[np.int64] | None:
    """Which of so many examples are taken, in their order; None for all."""
    if limit is None:
        return None
    if limit > count:
        raise UserError(f"--limit-{name} {limit} is more than the {count} {name} examples there are")
    return np.sort(numpy_rng(DATA_SEED, f"limit-{name}").permutation(count)[:limit])


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)


def _folder(root: Path, *, natural: bool, nodes: bool) -> tuple[ImageIndex, ImageIndex]:
    """``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val/``); train/ may be missing when nodes have the data."""
    test_folder = _test_folder(root)
    if test_folder is None or not (nodes or (root / "train").is_dir()):
        raise UserError(f"{root} must hold the folders train/ and test/ (or val/), with one folder of images a class")
    test = read_class_folders(test_folder, user_ids="if there")
    if nodes:
        return test, test
    train = read_class_folders(root / "train", user_ids="needed" if natural else "if there")
    if test.classes != train.classes:
        raise UserError(f"{root / 'train'} and {test_folder} do not hold the same classes")
    return train, test


def _parquet(root: Path, id_column: str) -> tuple[ImageIndex, ImageIndex]:
    """``train*.parquet`` and ``test*.parquet`` in the Hugging Face layout, in a folder of any depth."""
    sources = []
    for names in (("train",), TEST_NAMES):
        if not (files := find_parquet(root, names)):
            raise UserError(f"{root} holds no {names[0]}*.parquet; train*.parquet and test*.parquet are needed")
        sources.append(read_parquet(files, f"parquet:{root}", root))
    return _from_tables(sources[0], sources[1], id_column)


def _hub(name: str, cache: Path | None, id_column: str) -> tuple[ImageIndex, ImageIndex]:
    """A data set of the Hugging Face hub, or of its local cache."""
    splits, folders = load_hub(name, cache)
    test = next((split for split in TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise UserError(f"hub:{name} has the splits {', '.join(splits)}; train and test (or validation) are needed")
    tables = [splits[split].with_format("arrow")[:] for split in ("train", test)]
    sources = [ArrowSource(table, f"hub:{name}", folders=folders) for table in tables]
    return _from_tables(sources[0], sources[1], id_column)


def _from_tables(train: ArrowSource, test: ArrowSource, id_column: str) -> tuple[ImageIndex, ImageIndex]:
    """Two tables in the Hugging Face layout, with the classes that the schema of one names, or else as many as labels.

    Raises:
        UserError: as ``index_table``; there is no such id column, or labels are none of 0, 1, 2, ...
    """
    if id_column and id_column not in train.table.column_names:
        raise UserError(f"--id-column {id_column}: {train.name} has the columns {', '.join(train.table.column_names)}")
    indices = [index_table(source, id_column) for source in (train, test)]
    classes = indices[0].classes or indices[1].classes
    if indices[1].classes and indices[1].classes != classes:
        raise UserError(f"{train.name}: training and test examples do not name the same classes in the same order")
    if not classes:
        largest = int(indices[0].labels.max(initial=0))
        if largest >= MAX_CLASSES:
            raise UserError(
                f"{train.name}: label {largest} is too large: labels must be 0, 1, 2, ... below {MAX_CLASSES:,}"
            )
        classes = tuple(str(label) for label in range(largest + 1))
    for index in indices:
        _check_labels(index, len(classes), train.name)
    return dataclasses.replace(indices[0], classes=classes), dataclasses.replace(indices[1], classes=classes)


def _check_labels(index: ImageIndex, num_classes: int, source: str) -> None:
    if len(index) and not (index.labels.min() >= 0 and index.labels.max() < num_classes):
        raise UserError(f"{source}: labels must lie in 0..{num_classes - 1}, the classes of the training examples")
