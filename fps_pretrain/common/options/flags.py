"""Flags from the fields of a program's configuration, any dataclass, with help made of what the fields say.

``common.cli`` parses with ``REGISTRY``, tyro's rules for a type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, is_dataclass
from functools import partial
from typing import Annotated, Any

import tyro
from tyro.constructors import StructConstructorSpec, StructFieldSpec, StructTypeInfo

from fps_pretrain.common.options.fields import OptionField, fields_of
from fps_pretrain.common.options.option_set import OptionSet
from fps_pretrain.common.options.text import facts, help_of

REGISTRY = tyro.constructors.ConstructorRegistry()


@dataclass(frozen=True)
class Merged:
    """Stands in the ``Annotated`` of a field whose options are options of the program itself, but for some.

    Attributes:
        only: the options that the program has; none for all.
        instead: options that it does not have, and what it takes instead: ``(("init", "--inits"),)``.
    """

    only: tuple[str, ...] = ()
    instead: tuple[tuple[str, str], ...] = ()

    def options_of(self, part: type) -> tuple[OptionField, ...]:
        """The options of the field's class that the program has."""
        without = dict(self.instead)
        return tuple(
            one for one in fields_of(part) if one.name not in without and (not self.only or one.name in self.only)
        )


def merged_in(config_type: type) -> Iterator[tuple[OptionField, type, Merged]]:
    """The fields of a configuration that are ``Merged``, each with its class."""
    for one in fields_of(config_type):
        for extra in getattr(one.type, "__metadata__", ()):
            if isinstance(extra, Merged):
                yield one, one.type.__origin__, extra


def taken_instead(config_type: type) -> dict[str, str]:
    """Options that a program does not have although others of their class it has, and what it takes instead."""
    return {name: instead for _, _, merged in merged_in(config_type) for name, instead in merged.instead}


@REGISTRY.struct_rule
def _flags_of(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The flags of a configuration; tyro's own rules do all that is no dataclass."""
    if not (isinstance(info.type, type) and is_dataclass(info.type)):
        return None
    parts = {one.name: (part, merged) for one, part, merged in merged_in(info.type)}
    instance = info.default if isinstance(info.default, info.type) else None
    flags = []
    for one in fields_of(info.type):
        if one.name not in parts:
            flags.append(_flag(info.type, one, instance))
    for name, (part, merged) in parts.items():
        inner = _default(name, info.type, instance)
        flags += [_flag(part, one, inner) for one in merged.options_of(part)]
    return StructConstructorSpec(partial(_make, info.type, instance, parts), tuple(flags))


def _default(name: str, owner: type, instance: Any) -> Any:
    """A field's default, in ``instance`` if there is one; MISSING if it has none."""
    if instance is None:
        return next(one.default for one in fields_of(owner) if one.name == name)
    # What follows from other options in the default instance is no default: they may be given anew.
    return instance.given(name) if isinstance(instance, OptionSet) else getattr(instance, name)


def _flag(owner: type, one: OptionField, instance: Any) -> StructFieldSpec:
    default = _default(one.name, owner, None if instance is MISSING else instance)
    hint = tyro.conf.arg(help_behavior_hint=partial(_hint, one, default))
    help_text = partial(_help, owner, one.name)
    kind: Any = Annotated[one.type, hint]
    return StructFieldSpec(one.name, kind, tyro.MISSING if default is MISSING else default, help_text)


def _make(config_type: type, instance: Any, parts: dict[str, tuple[type, Merged]], **values: Any) -> Any:
    """The configuration with these values of its flags."""
    for name, (part, merged) in parts.items():
        default = _default(name, config_type, instance)
        kept = {} if default is MISSING else {o.name: _default(o.name, part, default) for o in fields_of(part)}
        values[name] = part(**kept | {one.name: values.pop(one.name) for one in merged.options_of(part)})
    return config_type(**values)


# Help is made where it is asked for.


def _hint(one: OptionField, default: Any, label: str) -> str:
    return facts(one, default)


def _help(options: type, name: str) -> str:
    return help_of(options).get(name, "")
