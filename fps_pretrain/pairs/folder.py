"""Pairs from a folder of images: two crops of one image (the paper's ImageNet and StyleGAN rows).

Every image is used once before any is used again, each time in a new order.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.fractals.recipe_numbers import DEFAULT_VIEW_NUMBERS, ViewNumbers
from fps_pretrain.images.decode import read_image
from fps_pretrain.images.folder import IMAGE_SUFFIXES, list_images
from fps_pretrain.pairs.crops import CropPairs


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, number: int, images: int) -> np.ndarray:
    """The order of the images in pass ``number`` of an epoch over the folder."""
    return np.random.default_rng([seed, epoch, number]).permutation(images)


class FolderPairs(CropPairs):
    """Pairs of two augmented crops of one image of a folder.

    Args:
        folder: holds the images, in folders of any depth.
        size: side of a view in pixels.
        seed: determines order and crops.
        numbers: of the augmentation.

    Raises:
        UserError: the folder holds no images.
    """

    def __init__(self, folder: Path, size: int, seed: int, numbers: ViewNumbers = DEFAULT_VIEW_NUMBERS) -> None:
        super().__init__(size, seed, numbers)
        self.folder = folder
        self.paths = list_images(folder)
        if not self.paths:
            raise UserError(f"--source folder:{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        read_image(folder / self.paths[0])

    def path_of(self, epoch: int, index: int) -> Path:
        """The path of the image of pair ``index`` of an epoch."""
        number, position = divmod(index, len(self.paths))
        return self.folder / self.paths[_order(self.seed, epoch, number, len(self.paths))[position]]

    def image(self, epoch: int, index: int) -> np.ndarray:
        """See ``CropPairs``.

        Raises:
            UserError: the image cannot be decoded.
        """
        return read_image(self.path_of(epoch, index))

    def description(self) -> dict[str, Any]:
        """See ``sources.PairSource``: the number of images, and a digest of their names and lengths."""
        return {"source": "folder", **super().description(), "images": len(self.paths), "files": self._files}

    @cached_property
    def _files(self) -> str:
        # of names and lengths: reading all images at each start would take minutes
        lines = (f"{(self.folder / path).stat().st_size} {path}" for path in self.paths)
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
