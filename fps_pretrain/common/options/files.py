"""Options and descriptions that are read from the text of files, without running them."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from fps_pretrain.common.options.fields import Option, OptionField, fields_of


def docs_of(options: type) -> dict[str, str]:
    """The descriptions of a dataclass's options: for each field the string below it."""
    docs: dict[str, str] = {}
    for owner in reversed(options.__mro__):
        if own := vars(owner).get("__annotations__"):
            texts = vars(owner).get("_field_docs") or _docs_in(_class_in(_tree_of(owner), owner.__name__))
            docs.update({name: text for name, text in texts.items() if name in own})
    return docs | {one.name: one.option.doc for one in fields_of(options) if one.option.doc}


def _tree_of(owner: type) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(sys.modules[owner.__module__]))
    except (OSError, KeyError, TypeError):  # a class that was made without a file
        return ast.Module([], [])


def _class_in(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next((part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == name), None)


def _docs_in(part: ast.ClassDef | None) -> dict[str, str]:
    found: dict[str, str] = {}
    body = part.body if part else []
    for statement, below in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[statement.target.id] = " ".join(text.value.split())
    return found


class OptionFiles:
    """The classes ``Options`` of a folder's files, read without running the rest of those files.

    Such a class may use only what its file imports from ``MODULES`` and from the module of its base class.

    Args:
        folder: where the files lie; one without ``Options`` is passed over.
        base: the class that each ``Options`` is derived from.
    """

    MODULES = ("dataclasses", "typing", "annotated_types", "fps_pretrain.common.options")

    def __init__(self, folder: Path, base: type) -> None:
        self.folder, self.base = folder, base

    @cached_property
    def all(self) -> Mapping[str, type]:
        """The classes by the names of their files, in alphabetical order."""
        found = {path.stem: self._read(path) for path in sorted(self.folder.glob("*.py"))}
        return {name: options for name, options in found.items() if options is not None}

    def _read(self, path: Path) -> type | None:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        part = _class_in(tree, "Options")
        if part is None:
            return None
        allowed = (*self.MODULES, self.base.__module__)
        imports = [each for each in tree.body if isinstance(each, ast.ImportFrom) and each.module in allowed]
        names: dict[str, Any] = {"__name__": f"options of {path.stem}"}
        code = compile(ast.Module([*imports, part], []), str(path), "exec", dont_inherit=True)
        exec(code, names)
        options: type = names["Options"]
        options._field_docs = _docs_in(part)  # type: ignore[attr-defined]
        return options


def shared(options: Mapping[str, type], choice: str) -> list[tuple[str, Any, Any]]:
    """Fields for ``make_dataclass``: the options of several classes, of which ``choice`` takes one by name.

    Each is None unless a class that has it is chosen.

    Raises:
        TypeError: two classes have an option of one name and of different types.
    """
    users: dict[str, dict[str, OptionField]] = {}
    for name, owner in options.items():
        for one in fields_of(owner):
            users.setdefault(one.name, {})[name] = one
    made = []
    for option, takers in users.items():
        if len({one.type for one in takers.values()}) > 1:
            raise TypeError(f"{option} has different types in {', '.join(takers)}")
        first = next(iter(takers))
        defaults = tuple((name, one.default) for name, one in takers.items())
        about = Option(choice, defaults, doc=docs_of(options[first]).get(option, ""))
        made.append((option, Annotated[takers[first].type | None, about], field(default=None)))
    return made
