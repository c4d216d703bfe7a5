"""Words that messages have in common: numbers with their noun, and the nearest name for one that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def counted(number: int, what: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def suggest(unknown: Iterable[str], known: Collection[str]) -> str:
    """The unknown names with the nearest known one behind each: ``alhpa (did you mean alpha?), xyz``."""
    found = []
    for name in unknown:
        close = difflib.get_close_matches(name, known, 1)
        found.append(f"{name} (did you mean {close[0]}?)" if close else name)
    return ", ".join(found)
