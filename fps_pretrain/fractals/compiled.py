"""How compiled code is compiled: two decorators for all of it, and where its machine code is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Typed less freely than they are: the settings are made at run time, and ``_nrt`` is not in the signature.
_settings: Any = numba.config
_njit: Any = numba.njit

_PACKAGE = Path(__file__).parent.parent
_SOURCES = sorted(_PACKAGE.glob("fractals/*.py"))


def _cache_folder() -> str:
    """A folder for the machine code of just these sources, or numba's own choice where none can be written.

    Numba looks at the file of a function to tell whether its machine code is still right, not at the files of the
    functions it calls: after a change there, or a ``git pull``, old code would go on running.
    """
    base = Path(_settings.CACHE_DIR) if _settings.CACHE_DIR else _PACKAGE / "__pycache__"
    if not _settings.CACHE_DIR and not os.access(base if base.exists() else _PACKAGE, os.W_OK):
        return ""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    return str(base / f"kernels-{digest[:16]}")


_CACHE = _cache_folder()


def _decorator(inline: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        before, _settings.CACHE_DIR = _settings.CACHE_DIR, _CACHE
        try:
            return _njit(cache=True, nogil=True, inline=inline, **options)(function)
        finally:
            _settings.CACHE_DIR = before

    return decorate


def compiled(inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """For functions that allocate."""
    return _decorator(inline)


def kernel(inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """For functions that work in arrays given to them, and may not allocate: numba then counts no references.

    Counting them, with an atomic operation for every slice in an inner loop, takes a sixth of the time of a pair.
    """
    return _decorator(inline, _nrt=False)
