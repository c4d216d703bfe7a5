"""Pairs to look at: single images and a labelled contact sheet."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import create_folder_atomically, write_bytes_atomically
from fps_pretrain.common.wording import counted
from fps_pretrain.config.pairs import PreviewConfig
from fps_pretrain.fractals import compiled
from fps_pretrain.fractals.batch import augment_pair
from fps_pretrain.fractals.codes import Codes, load_codes
from fps_pretrain.fractals.compose.colours import unpack
from fps_pretrain.fractals.compose.pairs import composed
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD

_SHEET_WIDTH = 1600
_LABEL_HEIGHT = 16
_MARGIN = 8
_FRAME = (0, 140, 60)


def to_images(views: np.ndarray) -> np.ndarray:
    """Undo the normalisation of views ``(N, 3, size, size)``: images ``(N, size, size, 3)``, uint8 RGB."""
    images = views.transpose(0, 2, 3, 1) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    return np.round(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def neighbour_sheet(rows: list[list[np.ndarray]], marked: list[set[int]]) -> np.ndarray:
    """Draw rows of images side by side, some with a frame. Small images are enlarged.

    Args:
        rows: the images of each row, ``(size, size, 3)``, uint8 RGB; a gap follows the first two.
        marked: for each row the positions of the images with a frame.
    """
    zoom = max(1, 64 // rows[0][0].shape[0])
    side = rows[0][0].shape[0] * zoom
    step, gap = side + _MARGIN, 2 * _MARGIN
    sheet = np.full((len(rows) * step + _MARGIN, len(rows[0]) * step + _MARGIN + gap, 3), 255, np.uint8)
    for y, (images, frames) in enumerate(zip(rows, marked, strict=True)):
        for x, image in enumerate(images):
            top, left = _MARGIN + y * step, _MARGIN + x * step + (gap if x > 1 else 0)
            if x in frames:
                sheet[top - 4 : top + side + 4, left - 4 : left + side + 4] = _FRAME
            sheet[top : top + side, left : left + side] = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return sheet


def _sheet(pairs: list[np.ndarray], labels: list[str]) -> np.ndarray:
    """Draw pairs in rows, each above its label. Small images are enlarged without smoothing."""
    size = pairs[0].shape[1]
    zoom = max(1, 72 // size)
    side = size * zoom
    cell_width = max(2 * side, 8 * max(map(len, labels))) + _MARGIN
    cell_height = side + _LABEL_HEIGHT + _MARGIN
    columns = max(1, min(len(pairs), _SHEET_WIDTH // cell_width))
    rows = -(-len(pairs) // columns)
    sheet = np.full((rows * cell_height + _MARGIN, columns * cell_width + _MARGIN, 3), 255, np.uint8)
    for k, (pair, label) in enumerate(zip(pairs, labels, strict=True)):
        top = _MARGIN + (k // columns) * cell_height
        left = _MARGIN + (k % columns) * cell_width
        both = np.concatenate([pair[0], pair[1]], axis=1).repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet[top : top + side, left : left + 2 * side] = both
        cv2.line(sheet, (left + side, top), (left + side, top + side - 1), (255, 255, 255), 1)
        cv2.putText(sheet, label, (left, top + side + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)
    return sheet


def png(image: np.ndarray) -> bytes:
    """An image, ``(H, W, 3)``, uint8 RGB, as a PNG file's bytes."""
    done, data = cv2.imencode(".png", image[:, :, ::-1])
    assert done
    return data.tobytes()


def write_pairs(folder: Path, recipe: Recipe, seed: int, count: int, *, codes: Codes, augmented: bool = True) -> None:
    """Write the first pairs of epoch 0: ``pair-NNN-view-{a,b}.png`` and ``sheet.png`` with all, labelled by class.

    Args:
        folder: the folder to make; an empty one is replaced. It is whole when it appears.
        recipe: what pairs look like.
        seed: the seed of codes and pairs.
        count: number of pairs.
        codes: codes of a file, or ``SEEDED_CODES``.
        augmented: show the views as the network sees them instead of as composed.

    Raises:
        UserError: it cannot be written.
    """
    pairs, labels = [], []
    for index in range(count):
        views, key, classes = composed(recipe, seed, 0, index, codes)
        pairs.append(to_images(augment_pair(views, key, numbers=recipe.augment)) if augmented else unpack(views))
        labels.append(f"{index}: " + " ".join(map(str, classes)))
    try:
        with create_folder_atomically(folder.resolve()) as partial:
            for index, pair in enumerate(pairs):
                for view, name in enumerate("ab"):
                    write_bytes_atomically(partial / f"pair-{index:03d}-view-{name}.png", png(pair[view]))
            write_bytes_atomically(partial / "sheet.png", png(_sheet(pairs, labels)))
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error


def preview(config: PreviewConfig) -> int:
    """Write the pairs of a configuration into an empty folder; see ``write_pairs``.

    Returns:
        The process's exit code, 0.

    Raises:
        UserError: the folder is not empty or cannot be written, or the file of codes cannot be read.
    """
    recipe, folder = config.recipe(), config.output
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder} exists and is not an empty folder: name another one")
    codes = load_codes(config.codes)
    if not compiled.is_cached():
        print(compiled.COMPILING, file=sys.stderr)
    write_pairs(folder, recipe, config.seed, config.pairs, codes=codes, augmented=config.augment)
    print(f"wrote {counted(config.pairs, 'pair')} and the contact sheet {folder / 'sheet.png'}", file=sys.stderr)
    return 0
