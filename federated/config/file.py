"""Options from a YAML file, as flags: what the command line says comes behind them and so overrides them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from federated.config.run import FIELDS, RunConfig, unused_beside
from fps_pretrain.common import cli, yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import check_value, flag, from_plain
from fps_pretrain.common.options.flags import taken_instead
from fps_pretrain.common.wording import suggest

ConfigT = TypeVar("ConfigT")

FLAG = "--config"


def parse(
    config_type: type[ConfigT],
    prog: str,
    arguments: Sequence[str],
    description: str = "",
    *,
    lists: Collection[str] = (),
    left_out: Collection[str] = (),
) -> ConfigT:
    """``cli.parse`` of ``arguments`` that may name a file; see ``expand``."""
    try:
        expanded = expand(arguments, lists=lists, left_out=left_out, instead=taken_instead(config_type))
    except UserError as error:
        cli.refuse(prog, f"{error} (see {prog} --help)")
    return cli.parse(config_type, prog, expanded, description=description)


def expand(
    arguments: Sequence[str],
    *,
    lists: Collection[str] = (),
    left_out: Collection[str] = (),
    instead: Mapping[str, str] | None = None,
) -> list[str]:
    """``arguments`` with ``--config FILE`` replaced by the file's options as flags, in front of all others.

    A flag that makes another choice (``--partition``, ``--strategy``) drops what the file says for its own choice alone
    (``alpha``, ``prox_mu``).

    Args:
        arguments: the command line's.
        lists: options beside a run's that the file may have, with one or more values.
        left_out: options that the file may have and the program has no use for.
        instead: options that the program does not have, and what it takes instead; the file may have them, as a run's
            config.yaml does, where that is given.

    Raises:
        UserError: the file is missing, no YAML mapping, has keys that are no options, or values that an option refuses.
    """
    rest = list(arguments)
    files = []
    for index in reversed(range(len(rest))):
        option, equals, value = rest[index].partition("=")
        if option != FLAG:
            continue
        if not equals and index + 1 == len(rest):
            raise UserError(f"{FLAG} needs a file")
        files.append(value if equals else rest[index + 1])
        del rest[index : index + (1 if equals else 2)]
    if not files:
        return rest
    if len(files) > 1:
        raise UserError(f"{FLAG} may be given once")
    values = read_file(Path(files[0]), lists)
    given = (argument.partition("=")[0] for argument in rest if argument.startswith("--"))
    flags = {option.removeprefix("--").replace("-", "_") for option in given}
    for name, other in (instead or {}).items():
        if name in values and other.startswith("--") and other.removeprefix("--") not in flags | set(values):
            raise UserError(f"{FLAG} {files[0]} has {name}: the program takes {other} instead")
    dropped = unused_beside(values, flags) | _following(values) | set(left_out) | set(instead or {})
    # Single values last, so that a positional argument that follows is not taken for one more of a list.
    names = sorted(set(values) - dropped, key=lambda name: (name not in lists, name))
    return [part for name in names for part in _as_flag(name, values[name])] + rest


def _following(values: Mapping[str, Any]) -> set[str]:
    """Options of a file whose values follow from its other options: a run's config.yaml holds them as if given."""
    run = {name: value for name, value in values.items() if name in FIELDS and value is not None}
    dependent = {name for name in run if FIELDS[name].option.choice}
    try:
        config = RunConfig(**{name: value for name, value in run.items() if name not in dependent})
    except UserError:  # it is no whole run without the flags
        return set()
    return {name for name in dependent if config.given(name) is None and getattr(config, name) == run[name]}


def read_file(path: Path, lists: Collection[str] = ()) -> dict[str, Any]:
    """A file's options by the names of their fields: a run's, and ``lists``.

    Raises:
        UserError: as ``expand`` says.
    """
    source = f"{FLAG} {path}"
    values: dict[str, Any] = {}
    for key, value in yaml_file.read(path, source).items():
        name = key.replace("-", "_")
        if name in values:
            raise UserError(f"{source}: {name} is there twice")
        values[name] = value
    known = {*FIELDS, *lists}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{source} has options that there are not: {suggest(unknown, known)}")
    for name, value in values.items():
        if name in lists:
            if any(isinstance(item, (dict, list)) for item in (value if isinstance(value, list) else [value])):
                raise UserError(f"{source}: {name} must be a value or a list of values")
        elif isinstance(value, (dict, list)):
            raise UserError(f"{source}: {name} must be a single value")
        elif value is not None:
            values[name] = _checked(name, value, source)
    return values


def _checked(name: str, value: Any, source: str) -> Any:
    try:
        value = from_plain(FIELDS[name], value)
        check_value(FIELDS[name], value)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return value


def _as_flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    if isinstance(value, list):
        return [flag(name), *map(str, value)]
    return [f"{flag(name)}={value}"]
