"""What is downloaded, and where it is kept."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from fps_pretrain.common.errors import UserError, one_line
from fps_pretrain.images.known import cifar_type, has_cifar

CACHE = Path.home() / ".cache" / "fps-federated"
"""Where data sets and weights go when their library has no cache of its own."""

_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def find_cifar(name: str, data_dir: Path | None) -> Path:
    """The folder that holds ``cifar10`` or ``cifar100`` as torchvision unpacks it; downloaded if none is named.

    Raises:
        UserError: ``data_dir`` does not hold it, or it cannot be downloaded.
    """
    source, root = cifar_type(name), data_dir or CACHE
    where = f"put train.parquet and test.parquet, or {source.base_folder}/ from {_CIFAR_PAGE}, into"
    if has_cifar(name, root):
        return root
    if data_dir is None:
        try:
            with one_line(f"cannot download {name}; {where} a folder and name it with --data-dir"):
                source(str(root), train=True, download=True)
        finally:
            with contextlib.suppress(OSError):
                root.rmdir()  # removes it only when the download left it empty
    if data_dir is not None or not has_cifar(name, root):
        raise UserError(f"{root} does not hold {name}: {where} it, or leave out --data-dir to download")
    return root


def load_hub(name: str, cache: Path | None) -> tuple[Any, tuple[Path, ...]]:
    """A data set of the Hugging Face hub by split, and the folders that its images may lie in as files.

    Raises:
        UserError: it is not there or cannot be downloaded.
    """
    with one_line(f"cannot load {name} from the Hugging Face hub; with its Parquet files use --dataset parquet:PATH"):
        import datasets
        from huggingface_hub import constants

        datasets.disable_progress_bars()
        splits = datasets.load_dataset(name, cache_dir=str(cache) if cache else None)
    folders = [datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE]
    return splits, tuple(Path(folder) for folder in ([cache] if cache else []) + folders)
