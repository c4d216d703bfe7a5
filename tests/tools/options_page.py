"""Write docs/options.md, the tables of all options: ``python -m tests.tools.options_page``."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from federated.config.run import RunConfig
from fps_pretrain.common.options.text import tables
from fps_pretrain.config import method
from fps_pretrain.config.pairs import PreviewConfig
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals.recipe_numbers import GROUPS, allowed_ranges
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "options.md"

START = """# Options

`python -m tests.tools.options_page` writes this page from the fields that define the options; `--help` shows the same.
An option that the others leave without use is refused: "with --partition shards" says that it goes with that choice
alone.

## run_fl.py

All of these may stand in a YAML file, too (`--config`). `experiments.compare` and `curve` take them as well, but for
`--init` and `--seed`, in whose place they have `--inits` or checkpoints, and `--seeds`. Beside them `run_fl.py` has
`--config FILE`, `--dry-run`, `--no-resume`, `--quiet` and `--verbose`.
"""


def page() -> str:
    """The page, made of what the fields of both programs' configurations say."""
    parts = [START, *(f"### {title}\n\n{table}" for title, table in tables(RunConfig))]
    parts += ["## run_pretrain.py\n", *(f"### {title}\n\n{table}" for title, table in tables(PretrainConfig))]
    parts += ["## Numbers of the recipe\n\n`run_pretrain.py --recipe-numbers NAME=VALUE ...`\n", _recipe_numbers()]
    parts += ["## Numbers of the methods\n\n`run_pretrain.py --method-options NAME=VALUE ...`\n"]
    parts += [f"### {name}\n\n{table}" for name in method.names() for _, table in tables(method.options_class(name))]
    parts += ["## run_pretrain.py preview\n\nBeside the options of pairs:\n", tables(PreviewConfig)[-1][1]]
    return "\n".join(parts)


def _recipe_numbers() -> str:
    lines = ["| number | range | default | |", "|---|---|---|---|"]
    ranges = allowed_ranges()
    for group, numbers in GROUPS.items():
        docs = _docs_of(numbers)
        for name, default in numbers._field_defaults.items():
            low, high = ranges[f"{group}.{name}"]
            lines.append(f"| `{group}.{name}` | {low:g} to {high:g} | `{default:g}` | {docs[name]} |")
    return "\n".join(lines) + "\n"


def _docs_of(numbers: type) -> dict[str, str]:
    """The string below each field of a NamedTuple."""
    (body,) = (statement.body for statement in ast.parse(inspect.getsource(numbers)).body)  # type: ignore[attr-defined]
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
