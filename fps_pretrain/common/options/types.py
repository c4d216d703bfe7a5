"""Types with ranges, and what they are in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

MAX_WIDTH = 64
MAX_THREADS = 1024

Count = Annotated[int, Ge(1)]
Width = Annotated[int, Ge(1), Le(MAX_WIDTH)]
Threads = Annotated[int, Ge(1), Le(MAX_THREADS)]
Workers = Annotated[int, Ge(0), Le(MAX_THREADS)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Decay = Annotated[float, Ge(0), Lt(1)]


def members(kind: Any) -> list[Any]:
    """The types of a union, each without its range; a type that is no union is its own."""
    if get_origin(kind) is Annotated:
        return members(kind.__origin__)
    if get_origin(kind) in (Literal, tuple) or not get_args(kind):
        return [kind]
    return [member for argument in get_args(kind) for member in members(argument)]


def either(values: Sequence[str]) -> str:
    """Names in a row: "a", "a or b", "a, b or c"."""
    return " or ".join(filter(None, (", ".join(values[:-1]), *values[-1:])))


def literals(kind: Any) -> list[Any]:
    """The values of the Literals in a type."""
    return [value for member in members(kind) if get_origin(member) is Literal for value in get_args(member)]


def bounds(kind: Any) -> dict[str, Any]:
    """The range of a type as {"gt" | "ge" | "lt" | "le": number}."""
    found = {}
    for extra in getattr(kind, "__metadata__", ()):
        found.update({name: getattr(extra, name) for name in ("gt", "ge", "lt", "le") if hasattr(extra, name)})
    for argument in get_args(kind) if get_origin(kind) is not Literal else ():
        found.update(bounds(argument))
    return found


def range_text(kind: Any) -> str:
    """The range of a type: "be at least 1", "be in 1 .. 1000", "satisfy 0 < value < 1"; empty where there is none."""
    found = bounds(kind)
    if int in members(kind) and set(found) == {"ge"}:
        return f"be at least {found['ge']}"
    if int in members(kind) and set(found) == {"ge", "le"}:
        return f"be in {found['ge']} .. {found['le']}"
    low = [f"{found[name]:g} {sign} " for name, sign in (("gt", "<"), ("ge", "<=")) if name in found]
    high = [f" {sign} {found[name]:g}" for name, sign in (("lt", "<"), ("le", "<=")) if name in found]
    return "".join(("satisfy ", *low, "value", *high)) if found else ""


def type_text(kind: Any) -> str:
    """A type in words: "int", "Path or nothing"."""
    kinds = [member for member in members(kind) if get_origin(member) is not Literal]
    names = ["nothing" if member is type(None) else getattr(member, "__name__", str(member)) for member in kinds]
    return " or ".join([*map(str, literals(kind)), *names])
