"""Committed CSV files as tables in a text: Markdown for a document, LaTeX (booktabs) for a paper."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.learning_curve.values import MAX_TABLE, RANDOM, Value, at_best_rates, read_table
from experiments.report.statistics import signed
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text
from fps_pretrain.common.wording import counted

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table as text: a header, and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read(paths: Sequence[Path], pairs: Sequence[int] = (), against: str = "") -> list[Table]:
    """The tables that CSV files give; the curves (curve.csv) of several files are one table.

    Args:
        paths: files that ``experiments.compare`` or ``experiments.curve`` wrote, or folders with such files.
        pairs: of curves, only the encoders that have seen so many pairs (and random weights); all if empty.
        against: of curves, the label that the others' linear accuracies of as many pairs are compared with, or nobody.

    Raises:
        UserError: a file cannot be read, is none of those, or the curves' values contradict each other.
    """
    files = [file for path in paths for file in _files(path)]
    curves = [file for file in files if file.name == "curve.csv"]
    tables = [_KINDS[file.name](_read(file), file) for file in files if file not in curves]
    if curves:
        tables.append(_curve(_together(curves), pairs, against))
    return tables


def _together(curves: Sequence[Path]) -> list[Value]:
    """The values of several files, one that stands in more of them once.

    Raises:
        UserError: one has another accuracy in another file: they are of other data or options.
    """
    found: dict[tuple[object, ...], Value] = {}
    for file in curves:
        for value in read_table(file):
            if found.setdefault((value.label, *value.key), value).accuracy != value.accuracy:
                raise UserError(
                    f"{file} has another {value.measure} accuracy of '{value.label}', seed {value.seed}, than a file "
                    "before it: curves of other data or options are no one table"
                )
    return list(found.values())


def _files(path: Path) -> list[Path]:
    known = [*_KINDS, "curve.csv"]
    if path.is_dir():
        found = [path / name for name in known if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds none of {', '.join(known)}")
        return found
    if path.name not in known or not path.is_file():
        raise UserError(f"{path} is not one of the files {', '.join(known)}")
    return [path]


def _read(path: Path) -> list[Row]:
    lines = csv.DictReader(io.StringIO(read_text(path, MAX_TABLE)))
    try:
        return list(lines)
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV, line {lines.line_num}: {error}") from error


def _share(text: str) -> str:
    value = float(text or "nan")  # a cell is empty where there is nothing to say
    return "" if math.isnan(value) else f"{100 * value:.1f}%"


def _with_spread(mean: str, spread: str) -> str:
    return _share(mean) + (f" ± {100 * float(spread):.1f}" if not math.isnan(float(spread)) else "")


def _interval(row: Row, name: str) -> str:
    if not row[name]:
        return ""
    mean, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    of_pairs = f" (of {counted(int(row['pairs']), 'seed')})" if row.get("pairs") else ""  # where arms have other seeds
    return signed(mean) + ("" if math.isnan(low) else f" [{signed(low)}, {signed(high)}]") + of_pairs


def _parsed(make: Callable[[list[Row]], Table]) -> Callable[[list[Row], Path], Table]:
    """Turn what goes wrong with a file's cells into one line."""

    def checked(rows: list[Row], path: Path) -> Table:
        try:
            return make(rows)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path} is not a table that experiments.compare writes") from error

    return checked


@_parsed
def _summary(rows: list[Row]) -> Table:
    baseline = rows[0]["arm"]
    header = ["arm", "seeds", "final", "best", "mean over rounds", f"final − {baseline}", f"mean − {baseline}"]
    cells = [
        [
            row["arm"],
            row["seeds"],
            _with_spread(row["final_accuracy"], row["final_std"]),
            _share(row["best_accuracy"]),
            _share(row["mean_over_rounds"]),
            _interval(row, "difference"),
            _interval(row, "mean_difference"),
        ]
        for row in rows
    ]
    if "fine_tuned_mean" in rows[0]:
        header += ["clients", "clients, fine-tuned", f"fine-tuned − {baseline}"]
        for row, line in zip(rows, cells, strict=True):
            line += [
                _share(row["client_mean"]),
                _share(row["fine_tuned_mean"]),
                _interval(row, "fine_tuned_difference"),
            ]
    return Table(tuple(header), tuple(map(tuple, cells)))


@_parsed
def _tuning(rows: list[Row]) -> Table:
    rates = sorted({row["lr"] for row in rows}, key=float)
    cells = {(row["init"], row["lr"]): _share(row["val_accuracy"]) + " ✓" * (row["chosen"] == "yes") for row in rows}
    inits = dict.fromkeys(row["init"] for row in rows)
    return Table(("lr", *rates), tuple((init, *(cells.get((init, lr), "") for lr in rates)) for init in inits))


_KINDS: dict[str, Callable[[list[Row], Path], Table]] = {"summary.csv": _summary, "tuning.csv": _tuning}


def _curve(values: Sequence[Value], pairs: Sequence[int], against: str) -> Table:
    """Encoders by label and pairs; a cell holds the value of each checkpoint or seed, or their mean and range."""
    rates: dict[str, set[float]] = {}
    for value in values:
        if value.lr:
            rates.setdefault(value.sha256, set()).add(value.lr)
    cells: dict[tuple[str, int], dict[str, list[Value]]] = {}
    for value in at_best_rates(values):
        if not pairs or value.pairs in pairs or value.label == RANDOM:
            cells.setdefault((value.label, value.pairs), {}).setdefault(value.measure, []).append(value)
    labels = list(dict.fromkeys(label for label, _ in cells))
    order = sorted(cells, key=lambda key: (labels.index(key[0]), key[1]))
    linear = {key: [value.accuracy for value in cells[key].get("linear", [])] for key in order}
    base = {key: accuracies for key, accuracies in linear.items() if key[0] == against and accuracies}
    if against and not base:
        raise UserError(f"no linear accuracy of '{against}', which the others are to be compared with")
    rows = []
    for key in order:
        mine = cells[key]
        row = [key[0], f"{key[1]:,}", *(_cell(mine.get(measure, []), rates) for measure in ("knn", "linear"))]
        if against:
            row.append(_difference(linear[key], _counterpart(base, key)) if key[0] != against else "")
        row.append(_cell(mine.get("federation", []), rates))
        rows.append(tuple(row))
    compared = (f"linear − {against}",) if against else ()
    header = ("encoder", "pairs", "kNN", "linear", *compared, "federation")
    if not any(row[-1] for row in rows):
        return Table(header[:-1], tuple(row[:-1] for row in rows))
    return Table(header, tuple(rows))


def _counterpart(base: Mapping[tuple[str, int], list[float]], key: tuple[str, int]) -> list[float]:
    """What a label is compared with: the values of as many pairs.

    Random weights have seen none: they stand beside every budget, and beside a label that has one alone.
    """
    first, *others = base
    if not others and RANDOM in (first[0], key[0]):
        return base[first]
    return base.get((first[0], key[1]), [])


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return signed(float(np.mean(ours)) - float(np.mean(theirs))) if len(ours) and len(theirs) else ""


def _cell(values: Sequence[Value], rates: dict[str, set[float]]) -> str:
    """Up to two values as they are; of more their mean and range. A star: only one learning rate was tried."""
    accuracies = [100 * value.accuracy for value in values]
    if len(values) > 2:
        return f"{np.mean(accuracies):.1f}% ({min(accuracies):.1f} to {max(accuracies):.1f})"
    return ", ".join(
        f"{100 * value.accuracy:.1f}%" + "*" * (value.lr > 0 and len(rates[value.sha256]) == 1) for value in values
    )


def markdown(table: Table) -> str:
    """The table in Markdown, one line a row."""

    def line(cells: Iterable[str]) -> str:
        escaped = (cell.replace("|", "\\|").replace("*", "\\*") for cell in cells)
        return "|" + "|".join(f" {cell} " if cell else " " for cell in escaped) + "|"

    return "\n".join([line(table.header), "|" + "---|" * len(table.header), *map(line, table.rows)]) + "\n"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "✓": r"$\checkmark$",
}


def latex(table: Table) -> str:
    """The table as a LaTeX tabular with booktabs' rules."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join("".join(_LATEX.get(character, character) for character in cell) for cell in cells) + r" \\"

    columns = "l" + "r" * (len(table.header) - 1)
    body = [line(table.header), r"\midrule", *map(line, table.rows)]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"
