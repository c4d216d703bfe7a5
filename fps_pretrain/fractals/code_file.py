"""Files of codes: a NumPy archive with ``maps (N, 4, 2, 3)`` and ``sizes (N,)``, the maps of each code and how many."""

from __future__ import annotations

import hashlib
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from fps_pretrain.common.errors import UserError
from fps_pretrain.fractals.recipe import MAX_MAPS

_NO_CODES = "is not a file of codes (.npz with maps (N, 4, 2, 3) and sizes (N,), see --codes in the README)"


def write_codes(path: Path, maps: np.ndarray, sizes: np.ndarray) -> None:
    """Write codes: ``maps (N, 4, 2, 3)`` and the number of maps of each, ``sizes (N,)``; unused maps are ignored."""
    np.savez_compressed(path, maps=np.asarray(maps, np.float64), sizes=np.asarray(sizes, np.int64))


def read_codes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The codes of a file: ``maps (N, 4, 2, 3)``, float64, and ``sizes (N,)``, int64.

    Raises:
        UserError: there is no such file, or it is not one of codes that the chaos game can play. Nothing is unpickled.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            maps, sizes = archive["maps"], archive["sizes"]
    except FileNotFoundError:
        raise UserError(f"--codes {path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
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
    """How many codes a file holds.

    Raises:
        UserError: as ``read_codes``.
    """
    return len(read_codes(path)[1])


def codes_digest(maps: np.ndarray, sizes: np.ndarray) -> str:
    """SHA-256 of codes, for saying which ones a run used."""
    return hashlib.sha256(maps.tobytes() + sizes.tobytes()).hexdigest()
