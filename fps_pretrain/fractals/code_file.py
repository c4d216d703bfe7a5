"""Files of codes: NumPy archives with ``maps (N, 4, 2, 3)`` and ``sizes (N,)``, the number of maps of each code."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from fps_pretrain.common.arrays import NoArrays, read_arrays
from fps_pretrain.common.errors import UserError
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS

_NO_CODES = "is not a file of codes (.npz with maps (N, 4, 2, 3) and sizes (N,), see --codes in docs/pairs.md)"


def write_codes(path: Path, maps: np.ndarray, sizes: np.ndarray) -> None:
    """Write a file of codes.

    Args:
        path: the file, .npz.
        maps: ``(N, 4, 2, 3)``; those beyond a code's number of maps are ignored.
        sizes: ``(N,)``, the number of maps of each code.
    """
    np.savez_compressed(path, maps=np.asarray(maps, np.float64), sizes=np.asarray(sizes, np.int64))


def read_codes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of codes. Nothing is unpickled.

    Returns:
        ``maps (N, 4, 2, 3)``, float64, and ``sizes (N,)``, int64.

    Raises:
        UserError: there is no such file, it has another content, or a code is not a contraction.
    """
    if not path.exists():
        raise UserError(f"--codes {path}: there is no such file")
    try:
        maps, sizes = read_arrays(path, "maps", "sizes")
    except NoArrays as error:
        raise UserError(f"--codes {path} {_NO_CODES}") from error
    right = maps.ndim == 4 and maps.shape[1:] == (MAX_MAPS, 2, 3) and sizes.shape == maps.shape[:1]
    if not (right and maps.dtype.kind in "fiu" and sizes.dtype.kind in "iu" and len(sizes)):
        raise UserError(f"--codes {path} {_NO_CODES}")
    if sizes.min() < 2 or sizes.max() > MAX_MAPS:
        raise UserError(
            f"--codes {path}: a code has 2 to {MAX_MAPS} maps, this file says {sizes.min()} to {sizes.max()}"
        )
    maps = np.where((np.arange(MAX_MAPS) < sizes[:, None])[:, :, None, None], maps.astype(np.float64), 0.0)
    if not np.isfinite(maps).all():
        raise UserError(
            f"--codes {path}: code {int(np.argwhere(~np.isfinite(maps))[0][0])} holds a number that is not finite"
        )
    largest = np.linalg.norm(maps[..., :2], ord=2, axis=(2, 3)).max(axis=1)
    if largest.max() > 1.0 + 1e-9:
        worst = int(largest.argmax())
        raise UserError(
            f"--codes {path}: code {worst} is no contraction, a singular value is {largest[worst]:.3g}: "
            "its walk would explode"
        )
    return np.ascontiguousarray(maps), sizes.astype(np.int64)


@lru_cache(maxsize=1)
def count_codes(path: Path) -> int:
    """The number of codes in a file.

    Raises:
        UserError: as ``read_codes``.
    """
    return len(read_codes(path)[1])


def codes_digest(maps: np.ndarray, sizes: np.ndarray) -> str:
    """SHA-256 of codes, by which a checkpoint records which ones a run used."""
    return hashlib.sha256(maps.tobytes() + sizes.tobytes()).hexdigest()
