"""Self-supervised methods, one file each; the file's name is the method's name.

A file defines the class ``Method``, and ``Options``, its numbers, which are read without running the file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fps_pretrain.config.method import names as available_methods

if TYPE_CHECKING:
    from fps_pretrain.methods.base import PairMethod


__all__ = ["available_methods", "method_class"]


def method_class(name: str) -> type[PairMethod]:
    """The method's LightningModule."""
    return importlib.import_module(f"{__name__}.{name}").Method
