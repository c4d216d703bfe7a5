"""The house: which way imports run, how large files and folders are. CONTRIBUTING.md describes it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PRETRAIN = (
    "common", "images", "models", "fractals", "config", "pairs", "methods", "probing", "training", "publish",
)  # fmt: skip
FEDERATED = (
    "config", "data", "weights", "client", "messages", "node_state", "open_workspace", "algorithms", "client_app",
    "engines", "server", "results", "server_app", "predict", "export",
)  # fmt: skip
EXPERIMENTS = ("learning_curve", "report", "analyses", "comparison", "probe", "curve", "table", "compare")
ORDERS = {"fps_pretrain": PRETRAIN, "federated": FEDERATED, "experiments": EXPERIMENTS}
LENT = ("common", "images", "models")
"""What ``federated`` takes of ``fps_pretrain``."""

MOST_LINES = 300
MOST_FILES = 12
"""Python files of a folder, without ``__init__``."""

MANY_FILES = {"federated/algorithms": 25}
"""Folders that grow by a file for each thing of a kind."""


def sources() -> list[Path]:
    found = [path for top in ("fps_pretrain", "federated", "experiments") for path in (ROOT / top).rglob("*.py")]
    return [*found, ROOT / "run_pretrain.py", ROOT / "run_fl.py"]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The project's modules that a file imports anywhere, in functions and for types, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
    return {name for name in found if name in modules}


MODULES = {module_of(path): path for path in sources()}
IMPORTS = {module: imports_of(path, set(MODULES)) for module, path in MODULES.items()}
LAZY = {"fps_pretrain", "federated"}
"""Modules whose imports wait until somebody asks for what they offer."""


def room(module: str) -> tuple[str, str]:
    top, _, rest = module.partition(".")
    return top, rest.partition(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_down(module: str) -> None:
    top, here = room(module)
    for imported in IMPORTS[module] if module not in LAZY else ():
        other, there = room(imported)
        message = f"{module} imports {imported}"
        if top == other and top in ORDERS and here and there:
            order = ORDERS[top]
            assert order.index(there) <= order.index(here), message
        elif top == "federated" and other == "fps_pretrain":
            assert there in LENT, message
        elif top in ("fps_pretrain", "federated") and top != other:
            pytest.fail(message)


def test_there_are_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module in done or module in LAZY:
            return
        for imported in sorted(IMPORTS[module]):
            visit(imported, (*above, module))
        done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_no_import_hides_behind_type_checking() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and module not in LAZY:
                inside = ast.unparse(node)
                assert not any(f"from {top}" in inside for top in ("fps_pretrain", "federated", "experiments")), module


def test_files_and_folders_are_small() -> None:
    folders: dict[Path, int] = {}
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines"
        if path.name != "__init__.py" and path.parent != ROOT:
            folders[path.parent] = folders.get(path.parent, 0) + 1
    for folder, count in folders.items():
        name = str(folder.relative_to(ROOT))
        assert count <= MANY_FILES.get(name, MOST_FILES), f"{name} has {count} files"
