"""A data set as an in-memory table: uint8 images, labels and class names, whatever it came from.

Every source ends in the same two steps: encoded images are decoded by OpenCV in a few threads, and brought to a
square of ``image_size``. Nothing a user's file holds is unpickled; CIFAR's original batches are pickles, which
torchvision opens only when their checksums are the published ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from federated.config.run import RunConfig
from federated.data.downloads import CACHE, one_line
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import numpy_rng

DATA_SEED = 0
"""Seed of what belongs to the data set, not to a run: the digits' test split, the subsets and the validation split."""

_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_TINY_IMAGENET_PAGE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_TEST_NAMES = ("test", "val", "validation", "valid")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Owners = NDArray[np.str_]


@dataclass(frozen=True)
class Split:
    """Images ``(N, S, S, 3)``, RGB in 0..255, labels ``(N,)`` and, where it is known and asked for, who made each."""

    images: Images
    labels: Labels
    owners: Owners | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """The examples at ``indices``, in that order."""
        owners = None if self.owners is None else self.owners[indices]
        return Split(self.images[indices], self.labels[indices], owners)


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
            if split.owners is not None:
                sha.update("\n".join(split.owners).encode())
        return sha.hexdigest()


def load(config: RunConfig) -> Dataset:
    """The data set a configuration names, its subsets and validation split drawn; kept for the next run of the process.

    Raises:
        UserError: the data are not there, cannot be downloaded or read, or hold fewer examples than asked for.
    """
    assert config.image_size is not None
    natural, nodes = config.partition == "natural", config.partition == "nodes"
    train, test, classes = _load(
        config.dataset, config.data_dir, config.image_size, config.id_column or "", natural=natural, nodes=nodes
    )
    if nodes:
        return Dataset(train, train, _subset(test, config.limit_test, "test"), classes)
    train = _subset(train, config.limit_train, "train")
    test = _subset(test, config.limit_test, "test")
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
    dataset: str, data_dir: Path | None, image_size: int, id_column: str, *, natural: bool, nodes: bool
) -> tuple[Split, Split, tuple[str, ...]]:
    kind, _, where = dataset.partition(":")
    if kind == "digits":
        train, test, classes = _digits(image_size)
    elif kind in ("cifar10", "cifar100"):
        train, test, classes = _cifar(kind, data_dir, image_size)
    elif kind == "tiny-imagenet":
        assert data_dir is not None
        train, test, classes = _tiny_imagenet(data_dir, image_size)
    elif kind == "folder":
        train, test, classes = _folder(Path(where), image_size, natural=natural, nodes=nodes)
    elif kind == "parquet":
        train, test, classes = _parquet(Path(where), image_size, id_column)
    else:
        train, test, classes = _hub(where, data_dir, image_size, id_column)
    if nodes:
        # The clients' examples lie with the nodes: what the server has of training examples is nobody's.
        train = train.take(np.empty(0, np.int64))
    for name, split in (("training", train), ("test", test)):
        if not len(split) and not (nodes and split is train):
            raise UserError(f"--dataset {dataset} holds no {name} examples")
    return train, test, classes


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
    if (where / "train").is_dir():
        train = _image_folder(where / "train", config.image_size, tuple(classes))[0]
        test_folder = _test_folder(where)
        if test_folder is None:
            return train, train.take(np.empty(0, np.int64))
        return train, _image_folder(test_folder, config.image_size, tuple(classes))[0]
    splits: list[Split] = []
    for names in (("train",), _TEST_NAMES):
        table = _read_parquet(where, names)
        if table is None and names == ("train",):
            raise UserError(f"{where} holds neither train/ with one folder of images a class nor train*.parquet")
        if table is None:
            splits.append(splits[0].take(np.empty(0, np.int64)))
        else:
            splits.append(_from_table(table, str(where), config.image_size, "")[0])
        _check_labels(splits[-1], len(classes), str(where))
    return splits[0], splits[1]


def _subset(split: Split, limit: int | None, name: str) -> Split:
    if limit is None:
        return split
    if limit > len(split):
        raise UserError(f"--limit-{name} {limit} is more than the {len(split)} {name} examples there are")
    return split.take(np.sort(numpy_rng(DATA_SEED, f"limit-{name}").permutation(len(split))[:limit]))


def _digits(image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """scikit-learn's 1,797 handwritten digits (8x8, grey levels 0..16), four fifths of each class for training."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = _pack((np.repeat(image[:, :, None], 3, axis=2) for image in grey), image_size)
    labels = digits.target.astype(np.int64)
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.2, stratify=labels, random_state=DATA_SEED)
    whole = Split(images, labels)
    return whole.take(np.sort(train)), whole.take(np.sort(test)), tuple(str(name) for name in digits.target_names)


def _cifar(name: str, data_dir: Path | None, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    if data_dir is not None and all((data_dir / f"{split}.parquet").is_file() for split in ("train", "test")):
        return _parquet(data_dir, image_size, "")
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    where = f"put train.parquet and test.parquet, or {source.base_folder}/ from {_CIFAR_PAGE}, into"
    root = data_dir or CACHE
    if data_dir is None and not _has_cifar(source, root):
        try:
            with one_line(f"cannot download {name}; {where} a folder and name it with --data-dir"):
                source(str(root), train=True, download=True)
        finally:
            with contextlib.suppress(OSError):
                root.rmdir()  # removes it only when the download left it empty
    if not _has_cifar(source, root):
        raise UserError(f"{root} does not hold {name}: {where} it, or leave out --data-dir to download")
    splits = []
    for train in (True, False):
        table = source(str(root), train=train)
        splits.append(Split(_pack(table.data, image_size), np.asarray(table.targets, dtype=np.int64)))
    return splits[0], splits[1], tuple(table.classes)


def _has_cifar(source: Any, root: Path) -> bool:
    """Whether torchvision finds all files of CIFAR below ``root``, with the published checksums."""
    try:
        source(str(root), train=True)
    except RuntimeError:
        return False
    return True


def _tiny_imagenet(root: Path, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """The usual layout: ``train/ID/images/*.JPEG``; ``val/images/`` and ``val/val_annotations.txt`` for the test."""
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    annotations = root / "val" / "val_annotations.txt"
    for needed in (root / "wnids.txt", root / "words.txt", annotations):
        if not needed.is_file():
            raise UserError(f"{root} lacks {needed.relative_to(root)} of tiny-imagenet-200: see {_TINY_IMAGENET_PAGE}")
    identifiers = (root / "wnids.txt").read_text().split()
    words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines() if "\t" in line)
    label_of = {identifier: label for label, identifier in enumerate(identifiers)}
    listed: list[tuple[list[Path], list[int]]] = [([], []), ([], [])]
    for identifier, label in label_of.items():
        found = sorted((root / "train" / identifier / "images").glob("*.JPEG"))
        listed[0][0].extend(found)
        listed[0][1].extend([label] * len(found))
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        name, identifier, *_ = [*line.split("\t"), ""]
        if identifier not in label_of:
            raise UserError(f"{annotations} is damaged in line {number}")
        listed[1][0].append(root / "val" / "images" / name)
        listed[1][1].append(label_of[identifier])
    splits = [
        Split(_decode([path.read_bytes for path in paths], paths, image_size), np.asarray(labels, np.int64))
        for paths, labels in listed
    ]
    return splits[0], splits[1], tuple(words.get(i, i).split(",")[0] for i in identifiers)


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)


def _folder(root: Path, image_size: int, *, natural: bool, nodes: bool) -> tuple[Split, Split, tuple[str, ...]]:
    """``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val/``); train/ may be missing when nodes have the data."""
    test_folder = _test_folder(root)
    if test_folder is None or not (nodes or (root / "train").is_dir()):
        raise UserError(f"{root} must hold the folders train/ and test/ (or val/), with one folder of images a class")
    test, classes = _image_folder(test_folder, image_size, natural="if there")
    if nodes:
        return test.take(np.empty(0, np.int64)), test, classes
    train, train_classes = _image_folder(root / "train", image_size, natural="needed" if natural else "if there")
    if classes != train_classes:
        raise UserError(f"{root / 'train'} and {test_folder} do not hold the same classes")
    return train, test, classes


def _image_folder(
    folder: Path, image_size: int, classes: tuple[str, ...] | None = None, natural: str = "no"
) -> tuple[Split, tuple[str, ...]]:
    """One folder of images a class, as torchvision's ImageFolder reads them; labelled by ``classes`` if given.

    ``natural`` says whether who made an image, the name of a folder below the class, is needed, taken if it is there
    for all, or not wanted.
    """
    from torchvision.datasets import ImageFolder

    try:
        listing = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {error}") from error
    if classes and (strange := sorted(set(listing.classes) - set(classes))):
        raise UserError(f"{folder} has the class {strange[0]}, which is none of the run's: {', '.join(classes)}")
    names = classes or tuple(listing.classes)
    paths = [Path(path) for path, _ in listing.samples]
    owners = None
    if natural != "no":
        below = [path.relative_to(folder).parts for path in paths]
        stray = next((path for path, parts in zip(paths, below, strict=True) if len(parts) < 3), None)
        if stray is None:
            owners = np.array([parts[1] for parts in below], dtype=np.str_)
        elif natural == "needed":
            raise UserError(f"--partition natural: {stray} must lie in a folder that says who made it, CLASS/WHO/")
    images = _decode([path.read_bytes for path in paths], paths, image_size)
    labels = np.asarray([names.index(listing.classes[target]) for target in listing.targets], dtype=np.int64)
    return Split(images, labels, owners), names


def _read_parquet(root: Path, names: Sequence[str]) -> Any:
    """The files below ``root`` whose names begin with the first of ``names`` that has any, as one table, or None."""
    import pyarrow
    import pyarrow.parquet

    files = next((files for name in names if (files := sorted(root.rglob(f"{name}*.parquet")))), [])
    if not files:
        return None
    try:
        return pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{files[0]} cannot be read as Parquet: {error}") from error


def _parquet(root: Path, image_size: int, id_column: str) -> tuple[Split, Split, tuple[str, ...]]:
    """Parquet files in the Hugging Face layout: an image column of encoded bytes and an integer label column."""
    found = []
    for names in (("train",), _TEST_NAMES):
        table = _read_parquet(root, names)
        if table is None:
            raise UserError(f"{root} holds no {names[0]}*.parquet; train*.parquet and test*.parquet are needed")
        found.append(table)
    return _from_tables(found[0], found[1], f"parquet:{root}", image_size, id_column)


def _hub(name: str, cache: Path | None, image_size: int, id_column: str) -> tuple[Split, Split, tuple[str, ...]]:
    """A data set of the Hugging Face hub, or of its local cache."""
    with one_line(f"cannot load {name} from the Hugging Face hub; with its Parquet files use --dataset parquet:PATH"):
        import datasets

        datasets.disable_progress_bars()
        splits = datasets.load_dataset(name, cache_dir=str(cache) if cache else None)
    test = next((split for split in _TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise UserError(f"hub:{name} has the splits {', '.join(splits)}; train and test (or validation) are needed")
    tables = [splits[split].with_format("arrow")[:] for split in ("train", test)]
    return _from_tables(tables[0], tables[1], f"hub:{name}", image_size, id_column)


def _from_tables(
    train: Any, test: Any, source: str, image_size: int, id_column: str
) -> tuple[Split, Split, tuple[str, ...]]:
    """Two Arrow tables in the Hugging Face layout to splits."""
    if id_column and id_column not in train.column_names:
        raise UserError(f"--id-column {id_column}: {source} has the columns {', '.join(train.column_names)}")
    pairs = [_from_table(table, source, image_size, id_column) for table in (train, test)]
    splits = [split for split, _ in pairs]
    named = pairs[0][1] or pairs[1][1]
    classes = named or tuple(str(i) for i in range(int(splits[0].labels.max(initial=0)) + 1))
    for split in splits:
        _check_labels(split, len(classes), source)
    return splits[0], splits[1], classes


def _check_labels(split: Split, num_classes: int, source: str) -> None:
    if len(split) and not (split.labels.min() >= 0 and split.labels.max() < num_classes):
        raise UserError(f"{source}: labels must lie in 0..{num_classes - 1}, the classes of the training examples")


def _from_table(table: Any, source: str, image_size: int, id_column: str) -> tuple[Split, tuple[str, ...]]:
    """An Arrow table in the Hugging Face layout to a split and the class names its schema keeps, if any."""
    import pyarrow

    image = next((column for column in _IMAGE_COLUMNS if column in table.column_names), None)
    label = next((column for column in _LABEL_COLUMNS if column in table.column_names), None)
    if image is None or label is None:
        raise UserError(
            f"{source} has the columns {', '.join(table.column_names)}; it needs an image column "
            f"({', '.join(_IMAGE_COLUMNS)}) and a label column ({', '.join(_LABEL_COLUMNS)})"
        )
    if not pyarrow.types.is_integer(table.schema.field(label).type):
        raise UserError(f"{source}: labels in column {label} must be integers 0, 1, 2, ...")
    for column in (label, id_column):
        if column in table.column_names and table.column(column).null_count:
            raise UserError(f"{source}: some values in column {column} are missing")
    labels = table.column(label).to_numpy().astype(np.int64)
    owners = None
    if id_column in table.column_names:
        owners = np.array([str(value) for value in table.column(id_column).to_pylist()], dtype=np.str_)
    cells = table.column(image).to_pylist()
    names = [f"{source} image {row}" for row in range(len(cells))]
    images = _decode([_cell_reader(cell) for cell in cells], names, image_size)
    return Split(images, labels, owners), _class_names(table, label)


def _class_names(table: Any, label: str) -> tuple[str, ...]:
    """The names a Hugging Face table keeps for its label column, or nothing."""
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    return tuple(metadata.get("info", {}).get("features", {}).get(label, {}).get("names", ()))


def _cell_reader(cell: Any) -> Callable[[], bytes]:
    """How to get the encoded bytes of an image cell: bytes, or the Hugging Face pair of bytes and path."""
    if isinstance(cell, bytes):
        return lambda: cell
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return lambda: cell["bytes"]
    if isinstance(cell, dict) and isinstance(cell.get("path"), str):
        return Path(cell["path"]).read_bytes
    return lambda: b""


def _decode(readers: Sequence[Callable[[], bytes]], names: Sequence[object], image_size: int) -> Images:
    """Encoded images to ``(N, S, S, 3)``; OpenCV decodes outside of the interpreter's lock."""
    images = np.empty((len(readers), image_size, image_size, 3), np.uint8)

    def decode(row: int) -> None:
        try:
            encoded = np.frombuffer(readers[row](), np.uint8)
        except OSError as error:
            raise UserError(f"{names[row]} cannot be read: {error.strerror}") from error
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if len(encoded) else None
        if image is None:
            raise UserError(f"{names[row]} is not an image that OpenCV can decode")
        images[row] = _fit(image, image_size)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(decode, range(len(readers)), chunksize=256):
            pass
    return images


def _pack(images: Iterable[Images], image_size: int) -> Images:
    """Decoded images to ``(N, S, S, 3)``."""
    return np.stack([_fit(image, image_size) for image in images])


def _fit(image: NDArray[Any], size: int) -> Images:
    """Resize the short side to ``size`` and crop the centre; an image of that size is returned as it is."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    new = max(size, round(width * scale)), max(size, round(height * scale))
    resized = cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    return np.ascontiguousarray(resized[top : top + size, left : left + size])
