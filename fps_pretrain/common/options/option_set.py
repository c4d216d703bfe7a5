"""The base of a program's configuration."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options.fields import check, fields_of, flag
from fps_pretrain.common.options.types import either


@dataclass(frozen=True)
class OptionSet:
    """Base of a program's configuration, which is checked and completed as it is made.

    Raises:
        UserError: a value has the wrong type, is out of range or goes with a choice that is not made.
    """

    filled_in: InitVar[tuple[tuple[str, Any], ...]] = field(default=(), kw_only=True)
    """Defaults that followed from other fields. ``dataclasses.replace`` hands them on, and they are worked out anew."""

    def __post_init__(self, filled_in: tuple[tuple[str, Any], ...]) -> None:
        """Check types and ranges, then give the options that go with a choice their defaults."""
        given = {name: None for name, value in filled_in if getattr(self, name) == value}
        object.__setattr__(self, "filled_in", ())
        for name in given:
            object.__setattr__(self, name, None)
        check(self)
        for one in fields_of(type(self)):
            chosen, defaults = getattr(self, one.option.choice, None), dict(one.option.defaults)
            if chosen in defaults:
                self.fill_in(one.name, defaults[chosen])
            elif one.option.choice and getattr(self, one.name) is not None:
                raise UserError(
                    f"{one.flag} goes with {flag(one.option.choice)} {either(list(defaults))}, not with {chosen}"
                )

    def fill_in(self, name: str, value: Any) -> None:
        """Give a field that is None a value that follows from the others."""
        if getattr(self, name) is None and value is not None:
            # Frozen for everybody else: a configuration is completed as it is made and never changes again.
            object.__setattr__(self, name, value)
            object.__setattr__(self, "filled_in", (*vars(self)["filled_in"], (name, value)))

    def given(self, name: str) -> Any:
        """A field's value, or None where it was filled in."""
        return None if name in dict(vars(self)["filled_in"]) else getattr(self, name)
