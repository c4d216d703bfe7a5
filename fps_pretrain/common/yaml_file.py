"""YAML with a clear error: a mapping of names to values, or one line that says where it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text, write_text_atomically

MAX_BITS = 10_000
"""Larger whole numbers are refused: Python does not turn them into text."""


def read(path: Path, name: str = "") -> dict[str, Any]:
    """The mapping that a file holds.

    Args:
        path: the file.
        name: what messages call it; its path if left out.

    Raises:
        UserError: the file cannot be read, or ``parse`` refuses it.
    """
    name = name or str(path)
    return parse(read_text(path, name=name), name)


def parse(text: str, name: str) -> dict[str, Any]:
    """The mapping that a text holds, by names; values are what YAML's plain types and lists make of them.

    Raises:
        UserError: the text is not YAML, not a mapping of names, or names something twice or a value that there is not.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
            raise UserError(f"{name} must map options to values, such as 'rounds: 30'")
        values: dict[str, Any] = {}
        for key, value in node.value:
            where = f"{name}, line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise UserError(f"{where}: {_text_of(key)} is no name of an option")
            if key.value in values:
                raise UserError(f"{where}: {key.value} is there twice")
            values[key.value] = _construct(loader, value, f"{where}: {key.value}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it has a character that is none"
        raise UserError(f"{name} is not YAML{where}: {what}") from error
    except RecursionError:
        raise UserError(f"{name} is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    return values


def _text_of(node: Any) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _construct(loader: yaml.SafeLoader, node: Any, where: str) -> Any:
    try:
        value = loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, LookupError, AttributeError) as error:
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where} is not a value: {' '.join(str(reason).split())}") from error
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (bytes, set, tuple)):
            raise UserError(f"{where} must be text or a number")
        if isinstance(item, int) and item.bit_length() > MAX_BITS:
            raise UserError(f"{where} is too large a number")
    return value


def dump(values: dict[str, Any]) -> str:
    """Plain values as YAML, one line each, in their order."""
    return yaml.safe_dump(values, sort_keys=False)


def write(path: Path, values: dict[str, Any]) -> None:
    """Put plain values into a file, all of it or none."""
    write_text_atomically(path, dump(values))
