"""Options from a YAML file, as flags: what the command line says comes behind them and so overrides them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from federated.config.run import RunConfig, unused_beside
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.suggest import suggest

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
        expanded = expand(arguments, lists=lists, left_out=left_out)
    except UserError as error:
        cli.refuse(prog, f"{error} (see {prog} --help)")
    return cli.parse(config_type, prog, expanded, description=description)


def expand(arguments: Sequence[str], *, lists: Collection[str] = (), left_out: Collection[str] = ()) -> list[str]:
    """``arguments`` with ``--config FILE`` replaced by the file's options as flags, in front of all others.

    A flag that makes another choice (``--partition``, ``--strategy``) drops what the file says for its own choice alone
    (``alpha``, ``prox_mu``).

    Args:
        arguments: the command line's.
        lists: options beside a run's that the file may have, with one or more values.
        left_out: options that the file may have and the program has no use for.

    Raises:
        UserError: the file is missing, no YAML mapping, or has keys that are no options.
    """
    rest = list(arguments)
    files = []
    for index in reversed(range(len(rest))):
        flag, equals, value = rest[index].partition("=")
        if flag != FLAG:
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
    flags = {argument.partition("=")[0].removeprefix("--").replace("-", "_") for argument in rest}
    dropped = unused_beside(values, flags) | set(left_out)
    # Single values last, so that a positional argument that follows is not taken for one more of a list.
    names = sorted(set(values) - dropped, key=lambda name: (name not in lists, name))
    return [part for name in names for part in _as_flag(name, values[name])] + rest


def read_file(path: Path, lists: Collection[str] = ()) -> dict[str, Any]:
    """A file's options by the names of their fields: a run's, and ``lists``.

    Raises:
        UserError: as ``expand`` says.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{FLAG} {path} cannot be read") from error
    except yaml.YAMLError as error:
        raise UserError(f"{FLAG} {path} is not YAML") from error
    if not isinstance(values, dict):
        raise UserError(f"{FLAG} {path} must map options to values, such as 'rounds: 30'")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    known = {field.name for field in dataclasses.fields(RunConfig)} | set(lists)
    if unknown := sorted(set(values) - known):
        raise UserError(f"{FLAG} {path} has options that there are not: {suggest(unknown, known)}")
    for name, value in values.items():
        if isinstance(value, dict) or (isinstance(value, list) and name not in lists):
            raise UserError(f"{FLAG} {path}: {name} must be a single value")
    return values


def _as_flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
