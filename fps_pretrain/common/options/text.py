"""What options say of themselves: the help of flags, and tables for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, get_origin

from fps_pretrain.common.options.fields import OptionField, fields_of, flag
from fps_pretrain.common.options.files import docs_of
from fps_pretrain.common.options.types import either, literals, members, range_text


def help_of(options: type) -> dict[str, str]:
    """The descriptions of a dataclass's options, with what only files tell."""
    return _help_of(options)


@cache
def _help_of(options: Any) -> dict[str, str]:
    docs = docs_of(options)
    more = {one.name: one.option.more for one in fields_of(options)}
    return {name: f"{text} {add()}" if (add := more.get(name)) else text for name, text in docs.items()}


def facts(one: OptionField, default: Any) -> str:
    """Range, values, default and use of an option in brackets, as ``--help`` shows them."""
    parts = [
        _range(one),
        f"one of {', '.join(one.option.choices())}" if one.option.choices else "",
        _use(one) if one.option.choice else _default(default),
    ]
    return f"({'; '.join(filter(None, parts))})" if any(parts) else ""


def _default(value: Any) -> str:
    return "required" if value is MISSING else "" if value in (None, "") else f"default {_plain(value)}"


def tables(options: type) -> list[tuple[str, str]]:
    """The options of a configuration as Markdown: for each of its parts the title and a table."""
    found = []
    for part in reversed(options.__mro__):
        own = [one for one in fields_of(options) if one.name in vars(part).get("__annotations__", {})]
        if own:
            found.append((part.__doc__ or part.__name__, _table(own, help_of(options))))
    return found


def _table(options: Sequence[OptionField], docs: Mapping[str, str]) -> str:
    lines = ["| option | value | default | |", "|---|---|---|---|"]
    for one in options:
        default = _use(one) if one.option.choice else "" if one.default is None else f"`{_plain(one.default)}`"
        notes = (
            docs.get(one.name, ""),
            "May differ when a run is resumed." if one.option.may_differ else "",
            "Never sent to clients." if one.option.server_only else "",
        )
        cells = (f"`{one.flag}`", _value(one), default, " ".join(filter(None, notes)))
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _value(one: OptionField) -> str:
    kinds = {int: "whole number", float: "number", str: "text", Path: "path", bool: "yes or no"}
    values = [str(value) for value in (one.option.choices() if one.option.choices else literals(one.type))]
    names = [kinds[kind] for kind in members(one.type) if kind in kinds] if not one.option.choices else []
    names += ["several" for kind in members(one.type) if get_origin(kind) is tuple]
    return ", ".join([*values, *names, *filter(None, [_range(one)])])


def _range(one: OptionField) -> str:
    text = range_text(one.type)
    return next((text.removeprefix(verb) for verb in ("satisfy ", "be in ", "be ") if text.startswith(verb)), text)


def _use(one: OptionField) -> str:
    """The values of the other option that this one goes with, and the default with each."""
    groups = [
        (either([value for value, _ in pairs]), default)
        for default, pairs in ((key, list(group)) for key, group in groupby(_by_default(one), lambda pair: pair[1]))
    ]
    texts = [f"{values}, default {_plain(default)}" if default is not None else values for values, default in groups]
    return f"with {flag(one.option.choice)} {'; with '.join(texts)}"


def _by_default(one: OptionField) -> list[tuple[str, Any]]:
    defaults = one.option.defaults
    order = [default for _, default in defaults]
    return sorted(defaults, key=lambda pair: order.index(pair[1]))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)
