"""A data set as an in-memory table: uint8 images, labels and class names, whatever it came from.

Every source ends in the same two steps: encoded images are decoded by OpenCV in a few threads, and brought to a
square of ``image_size``. Nothing a user's file holds is unpickled; CIFAR's original batches are pickles, which
torchvision opens only when their checksums are the published ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
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

from federated.config import RunConfig
from federated.keys import numpy_rng
from fps_pretrain.errors import UserError

DATA_SEED = 0
"""Seed of what belongs to the data set, not to a run: the digits' test split, the subsets and the validation split."""

DOWNLOADS = Path.home() / ".cache" / "fps-federated"
"""Where CIFAR goes when no directory is named."""

_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_TEST_NAMES = ("test", "val", "validation", "valid")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images ``(N, S, S, 3)``, RGB in 0..255, and labels ``(N,)``."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """The examples at ``indices``, in that order."""
        return Split(self.images[indices], self.labels[indices])


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
        return sha.hexdigest()


def load(config: RunConfig) -> Dataset:
    """The data set a configuration names, its subsets and validation split drawn; kept for the next run of the process.

    Raises:
        UserError: the data are not there, cannot be downloaded or read, or hold fewer examples than asked for.
    """
    train, test, classes = _load(config.dataset, config.data_dir, config.image_size)
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
def _load(dataset: str, data_dir: Path | None, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    kind, _, where = dataset.partition(":")
    if kind == "digits":
        train, test, classes = _digits(image_size)
    elif kind in ("cifar10", "cifar100"):
        train, test, classes = _cifar(kind, data_dir, image_size)
    elif kind == "folder":
        train, test, classes = _folder(Path(where), image_size)
    elif kind == "parquet":
        train, test, classes = _parquet(Path(where), image_size)
    else:
        train, test, classes = _hub(where, data_dir, image_size)
    for name, split in (("training", train), ("test", test)):
        if not len(split):
            raise UserError(f"--dataset {dataset} holds no {name} examples")
    return train, test, classes


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
        return _parquet(data_dir, image_size)
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    where = f"put train.parquet and test.parquet, or {source.base_folder}/ from {_CIFAR_PAGE}, into"
    root = data_dir or DOWNLOADS
    if data_dir is None and not _has_cifar(source, root):
        try:
            with _one_line(f"cannot download {name}; {where} a folder and name it with --data-dir"):
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


def _folder(root: Path, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val/``), as torchvision's ImageFolder reads them."""
    from torchvision.datasets import ImageFolder

    test_folder = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test_folder is None:
        raise UserError(f"{root} must hold the folders train/ and test/ (or val/), with one folder of images a class")
    splits, classes = [], []
    for folder in (root / "train", test_folder):
        try:
            listing = ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise UserError(f"{folder}: {error}") from error
        paths = [Path(path) for path, _ in listing.samples]
        images = _decode([path.read_bytes for path in paths], paths, image_size)
        splits.append(Split(images, np.asarray(listing.targets, dtype=np.int64)))
        classes.append(listing.classes)
    if classes[0] != classes[1]:
        raise UserError(f"{root / 'train'} and {test_folder} do not hold the same classes")
    return splits[0], splits[1], tuple(classes[0])


def _parquet(root: Path, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """Parquet files in the Hugging Face layout: an image column of encoded bytes and an integer label column."""
    import pyarrow
    import pyarrow.parquet

    found = []
    for names in (("train",), _TEST_NAMES):
        files = next((files for name in names if (files := sorted(root.rglob(f"{name}*.parquet")))), [])
        if not files:
            raise UserError(f"{root} holds no {names[0]}*.parquet; train*.parquet and test*.parquet are needed")
        try:
            found.append(pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files]))
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{files[0]} cannot be read as Parquet: {error}") from error
    return _from_tables(found[0], found[1], f"parquet:{root}", image_size)


def _hub(name: str, cache: Path | None, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """A data set of the Hugging Face hub, or of its local cache."""
    with _one_line(f"cannot load {name} from the Hugging Face hub; with its Parquet files use --dataset parquet:PATH"):
        import datasets

        datasets.disable_progress_bars()
        splits = datasets.load_dataset(name, cache_dir=str(cache) if cache else None)
    test = next((split for split in _TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise UserError(f"hub:{name} has the splits {', '.join(splits)}; train and test (or validation) are needed")
    tables = [splits[split].with_format("arrow")[:] for split in ("train", test)]
    return _from_tables(tables[0], tables[1], f"hub:{name}", image_size)


def _from_tables(train: Any, test: Any, source: str, image_size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """Two Arrow tables in the Hugging Face layout to splits; the class names are in the schema's metadata."""
    import pyarrow

    splits: list[Split] = []
    named: tuple[str, ...] = ()
    for table in (train, test):
        image = next((column for column in _IMAGE_COLUMNS if column in table.column_names), None)
        label = next((column for column in _LABEL_COLUMNS if column in table.column_names), None)
        if image is None or label is None:
            raise UserError(
                f"{source} has the columns {', '.join(table.column_names)}; it needs an image column "
                f"({', '.join(_IMAGE_COLUMNS)}) and a label column ({', '.join(_LABEL_COLUMNS)})"
            )
        if not pyarrow.types.is_integer(table.schema.field(label).type):
            raise UserError(f"{source}: labels in column {label} must be integers 0, 1, 2, ...")
        if table.column(label).null_count:
            raise UserError(f"{source}: some labels in column {label} are missing")
        labels = table.column(label).to_numpy().astype(np.int64)
        cells = table.column(image).to_pylist()
        names = [f"{source} image {row}" for row in range(len(cells))]
        splits.append(Split(_decode([_cell_reader(cell) for cell in cells], names, image_size), labels))
        named = named or _class_names(table, label)
    classes = named or tuple(str(i) for i in range(int(splits[0].labels.max(initial=0)) + 1))
    for split in splits:
        if len(split) and not (split.labels.min() >= 0 and split.labels.max() < len(classes)):
            raise UserError(f"{source}: labels must lie in 0..{len(classes) - 1}, the classes of the training examples")
    return splits[0], splits[1], classes


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


@contextlib.contextmanager
def _one_line(message: str) -> Any:
    """Whatever a download raises (each library has its own errors) becomes one line, and what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise UserError(f"{message} ({reason[0] if reason else type(error).__name__})") from error
