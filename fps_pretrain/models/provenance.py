"""What a checkpoint says of itself, in a form that can be shown and written: anybody's file may say anything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

MAX_DEPTH = 20
"""Levels of dictionaries and lists that are kept."""

MAX_ITEMS = 10_000
"""Values that are kept, over all levels: a list that holds itself has no end."""

MAX_BITS = 10_000
"""Larger whole numbers become text: Python does not write them in decimals."""


def plain_provenance(found: object) -> dict[str, Any]:
    """Plain values with text that UTF-8 can hold; what has no such form is told in words.

    Anything but a dictionary says nothing of a pre-training, and the result is empty.
    """
    return _plain(found, 0, count()) if isinstance(found, dict) else {}


def _plain(value: Any, depth: int, seen: Iterator[int]) -> Any:
    if depth > MAX_DEPTH or next(seen) > MAX_ITEMS:
        return "..."
    if isinstance(value, dict):
        return {_text(_plain(name, depth + 1, seen)): _plain(item, depth + 1, seen) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1, seen) for item in value]
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_BITS else f"a number of {value.bit_length()} bits"
    return _text(value) if isinstance(value, str) else f"a {type(value).__name__}"


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()
