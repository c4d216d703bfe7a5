"""What is known of the self-supervised methods before PyTorch is imported: their names and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import OptionFiles, check, fields_of
from fps_pretrain.common.options.types import members


@dataclass(frozen=True)
class MethodOptions:
    """Base of the ``Options`` that each file in ``fps_pretrain/methods/`` defines.

    A field is one of the numbers that ``--method-options`` changes: its type and range, its default, and its
    description in the string below it. The class is read without running the rest of its file; see ``OptionFiles``.

    Raises:
        UserError: a value is out of range.
    """

    reference_lr: ClassVar[float] = 0.05
    """SGD's learning rate for a batch of 256 (the default is that of SimSiam's paper)."""

    def __post_init__(self) -> None:
        check(self)

    @staticmethod
    def flag_of(name: str) -> str:
        """What messages call an option."""
        return f"--method-options {name}"


REFERENCE_LR = {"adamw": 1e-3, "lars": 0.3}
"""Other optimisers' learning rate for a batch of 256, with every method; LARS's is SimCLR's (section 2.2)."""

_FILES = OptionFiles(Path(__file__).parents[1] / "methods", MethodOptions)


def names() -> tuple[str, ...]:
    """The methods there are, in alphabetical order: the files of ``fps_pretrain/methods/`` that have ``Options``."""
    return tuple(_FILES.all)


def options_class(name: str) -> type[MethodOptions]:
    """The options of a method."""
    return _FILES.all[name]


def options_of(name: str, numbers: Mapping[str, float]) -> MethodOptions:
    """The options of a method, some of them changed.

    Raises:
        UserError: the method has no such option, or a value is out of range.
    """
    known = {one.name: one for one in fields_of(options_class(name))}
    if unknown := sorted(set(numbers) - set(known)):
        has = ", ".join(known) or "none"
        raise UserError(f"--method-options {unknown[0]}: {name} has no such option (it has: {has})")
    whole = {option for option, value in numbers.items() if int in members(known[option].type) and value.is_integer()}
    return options_class(name)(**{option: int(v) if option in whole else v for option, v in numbers.items()})


def usual_lr(name: str, optimizer: str, batch_size: int) -> float:
    """The learning rate of a method where none is given; it grows with the batch (Goyal et al., 2017)."""
    return REFERENCE_LR.get(optimizer, options_class(name).reference_lr) * batch_size / 256


def texts_of(options: MethodOptions) -> tuple[str, ...]:
    """All of a method's options as ``--method-options`` takes them; the numbers are exact."""
    return tuple(f"{one.name}={getattr(options, one.name)!r}".removesuffix(".0") for one in fields_of(type(options)))


def defaults() -> str:
    """The options of all methods with their defaults, in one sentence."""
    texts = {
        name: " ".join(f"{one.name}={one.default:g}" for one in fields_of(options))
        for name, options in _FILES.all.items()
    }
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text) + "."
