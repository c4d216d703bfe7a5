"""The decorators of all compiled functions, and the folder of the machine code that numba caches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Any: numba creates its settings at run time, and the option ``_nrt`` is not in the signature of njit.
_settings: Any = numba.config
_njit: Any = numba.njit

_PACKAGE = Path(__file__).parent.parent
# All sources of compiled code and of its constants. ``batched`` holds torch code only.
_FRACTALS = Path(__file__).parent
_SOURCES = sorted(path for path in _FRACTALS.rglob("*.py") if path.parent.name != "batched")
_SOURCES.append(_PACKAGE / "images" / "pixels.py")  # ImageNet's mean and deviation


def _cache_folder() -> str:
    """The folder for the machine code of these sources, or "" for numba's own choice where it is not writable.

    Numba recompiles a function when its own file has changed, but not when the file of a function it calls has. The
    folder's name is therefore a hash of all sources.
    """
    base = Path(_settings.CACHE_DIR) if _settings.CACHE_DIR else _PACKAGE / "__pycache__"
    if not _settings.CACHE_DIR and not os.access(base if base.exists() else _PACKAGE, os.W_OK):
        return ""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    return str(base / f"kernels-{digest[:16]}")


_CACHE = _cache_folder()


COMPILING = "compiling the renderer for this machine, once: up to a minute"
"""What a program says before its first pair, unless ``is_cached``."""


def is_cached() -> bool:
    """Whether the machine code of these sources was kept by an earlier process, as far as is known."""
    return not _CACHE or any(Path(_CACHE).rglob("*.nbi"))  # numba's index files


def _decorator(inline: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        before, _settings.CACHE_DIR = _settings.CACHE_DIR, _CACHE
        try:
            return _njit(cache=True, nogil=True, inline=inline, **options)(function)
        finally:
            _settings.CACHE_DIR = before

    return decorate


def compiled(inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that allocates memory."""
    return _decorator(inline)


def kernel(inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that allocates no memory: it works in arrays that it is given.

    Numba then counts no references. Counting takes an atomic operation for every slice in an inner loop, a sixth of the
    time of a pair.
    """
    return _decorator(inline, _nrt=False)
