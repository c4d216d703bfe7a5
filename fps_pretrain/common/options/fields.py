"""An option is a field of a dataclass: what is known of it, and the checks of its value."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_origin, get_type_hints

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options.types import literals, members, range_text, type_text


@dataclass(frozen=True)
class Option:
    """What type, range and default do not say of an option; it stands in the field's ``Annotated``."""

    choice: str = ""
    """The option whose values this one goes with; with all others it is None, and refused if it is given."""
    defaults: tuple[tuple[str, Any], ...] = ()
    """Those values of ``choice``, each with the default of this option."""
    may_differ: bool = False
    """Whether a run may be resumed with another value."""
    server_only: bool = False
    """Whether the value is kept from the clients."""
    choices: Callable[[], Sequence[str]] | None = None
    """The values that there are, where only files tell."""
    more: Callable[[], str] | None = None
    """What to add to the description, where only files tell."""
    why: str = ""
    """Why the range ends where it does, for the message that refuses a value."""
    doc: str = ""
    """The description, where no string stands under the field."""


def goes_with(choice: str, *values: str, default: Any = None, server_only: bool = False, why: str = "") -> Option:
    """An option that is used with these values of another option, where it has this default."""
    return Option(choice=choice, defaults=tuple((value, default) for value in values), server_only=server_only, why=why)


MAY_DIFFER = Option(may_differ=True)
"""Says where and how fast a run goes, not what it computes."""

THREADS = Option(may_differ=True, why="more than any machine has cores")
"""Threads or processes, see ``types.Threads``."""

WIDTH = Option(why="weights grow with its square")
"""Multiplier of an encoder's channels, see ``types.Width``."""


class OptionField(NamedTuple):
    """An option as its field describes it."""

    name: str
    type: Any
    """The type with its range, without the ``Option``."""
    default: Any
    option: Option
    flag: str

    @property
    def checked_type(self) -> Any:
        """The type with the values that ``Option.choices`` knows."""
        return Literal[tuple(self.option.choices())] if self.option.choices else self.type


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def fields_of(options: type) -> tuple[OptionField, ...]:
    """The options of a dataclass, in order."""
    return _fields_of(options)


@cache
def _fields_of(options: Any) -> tuple[OptionField, ...]:
    hints, flag_of = get_type_hints(options, include_extras=True), getattr(options, "flag_of", flag)
    found = []
    for one in fields(options):
        option, kind = Option(), hints[one.name]
        if get_origin(kind) is Annotated:
            kept = [extra for extra in kind.__metadata__ if not isinstance(extra, Option)]
            option = next((extra for extra in kind.__metadata__ if isinstance(extra, Option)), option)
            kind = Annotated[(kind.__origin__, *kept)] if kept else kind.__origin__
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        found.append(OptionField(one.name, kind, default, option, flag_of(one.name)))
    return tuple(found)


def check(options: Any) -> None:
    """Check types and ranges of a dataclass's options.

    Raises:
        UserError: a value is not what its field says; one line names the flag, what it must be and what it is.
    """
    for one in fields_of(type(options)):
        value = getattr(options, one.name)
        # Building a validator takes a moment, and a test makes sure of the defaults.
        if value is not one.default:
            check_value(one, value)


def check_value(one: OptionField, value: Any) -> None:
    """Check a single value; see ``check``."""
    # The program's --help does not need it.
    from pydantic import ValidationError

    try:
        _validator(one.checked_type).validate_python(value)
    except ValidationError as error:
        # Of several types that a value may have, what is wrong with the number says more than that it is no name.
        kinds = [each["type"] for each in error.errors(include_url=False)]
        kind = next((each for each in kinds if each != "literal_error"), kinds[0])
    else:
        return
    if kind == "literal_error":
        values = ", ".join(map(str, literals(one.checked_type)))
        raise UserError(f"{one.flag} {bare(value)} is unknown: choose one of {values}")
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"):
        reason = f" ({one.option.why})" if one.option.why else ""
        raise UserError(f"{one.flag} must {range_text(one.type) or 'be a finite number'}{reason}, got {_shown(value)}")
    raise UserError(f"{one.flag} must be of type {type_text(one.type)}, got {_shown(value)}")


@cache
def _validator(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def bare(value: Any) -> str:
    """A value in a message, without quotes and cut short where it is long or nested."""
    return _shown(value).strip("'")


def _shown(value: Any) -> str:
    """A value in a message, cut short where it is long."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 80
    shortened.maxlevel = 2
    return shortened.repr(value)


def from_plain(one: OptionField, value: Any) -> Any:
    """A value of a YAML file, or a word, as the option's type; one that is none is returned as it is."""
    kinds = members(one.type)
    if isinstance(value, int) and not isinstance(value, bool) and str(value) in literals(one.type):
        return str(value)  # what 32 is without quotes
    if isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds):
        return tuple(value)
    for kind in (int, float, Path):
        if isinstance(value, str) and kind in kinds and str not in kinds:
            try:
                return kind(value)
            except ValueError:
                continue
    return value
