"""Self-supervised methods, one file each; the file's name is the method's name and its ``Method`` the class."""

from __future__ import annotations

import pkgutil

_NOT_METHODS = {"base"}


def available_methods() -> list[str]:
    """Names that ``--method`` takes, found without importing the methods."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_METHODS)
