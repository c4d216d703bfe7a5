"""A run's metrics.jsonl, read back: rounds as mappings of names to numbers, or one line that says which is none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from federated.server.output import file_names
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text

_MEASURES = ("test_", "val_", "train_", "client_accuracy_", "fine_tuned_accuracy_")
"""What names of losses and accuracies begin with."""

MAX_HISTORY = 2**32
"""Bytes of the longest metrics.jsonl."""

_NUMBERS = ("seconds", "lr", "dp_epsilon", "dp_clip")
"""Numbers in a line of metrics.jsonl beside the losses and accuracies."""

Row = dict[str, Any]
"""A line of metrics.jsonl."""


def read_history(folder: Path) -> list[Row]:
    """The rows of a run's metrics.jsonl; a last line that a crash left incomplete is left out.

    Raises:
        UserError: there is no such file, or a line is damaged, unless it is the last and incomplete.
    """
    path = folder / file_names.METRICS
    try:
        lines = read_text(path, MAX_HISTORY).splitlines()
    except UserError as error:
        raise UserError(f"{path} cannot be read: is {folder} a run?") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path} is damaged in line {number}") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, nesting without end
            raise UserError(f"{path} is damaged in line {number}") from error
        if why := _why_no_row(row):
            raise UserError(f"{path} is damaged in line {number}: {why}")
        rows.append(row)
    return rows


def _why_no_row(row: Any) -> str | None:
    """What keeps a line of metrics.jsonl from being a round's; None if it is."""
    if not isinstance(row, dict):
        return "it is no mapping"
    if type(row.get("round")) is not int or not 0 <= row["round"] < 2**31:
        return "it names no round"
    for name, value in row.items():
        if name in ("client_accuracies", "fine_tuned_accuracies") and value is not None:
            if not isinstance(value, list) or not all(item is None or _is_finite(item) for item in value):
                return f"{name} is no list of finite numbers"
        elif (name in _NUMBERS or name.startswith(_MEASURES)) and value is not None and not _is_finite(value):
            return f"{name} is no finite number"
    before, after = (row.get(f"{what}_accuracies") for what in ("client", "fine_tuned"))
    if after is not None and (before is None or len(after) != len(before)):
        return "fine_tuned_accuracies are not those of client_accuracies"
    return None


def _is_finite(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond the largest float
        return False
