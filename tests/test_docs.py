"""The documentation: its links lead somewhere, its commands are accepted, its code runs."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import torch

import run_fl
from experiments import compare
from federated.config import algorithm
from fps_pretrain.common import cli
from fps_pretrain.config import method
from fps_pretrain.config.pairs import PreviewConfig
from fps_pretrain.config.pretrain import PretrainConfig
from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "checkpoints" / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
GUIDES = [page for page in PAGES if page.name != "options.md"]

README_WORDS = 1_300
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

FOREIGN_FLAGS = {"--run-config", "--head", "--address"}
"""Flags in the text, outside of blocks, that are Flower's or Ray's (``--head`` is also one of ours)."""


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings that are the same on GitHub and on the site: without two hyphens in a row."""
    titles = [
        line.lstrip("#").strip().lower() for line in FENCE.sub("", page.read_text()).splitlines() if line[:1] == "#"
    ]
    slugs = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
    return {slug for slug in slugs if "--" not in slug}


@pages
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if target.startswith(("https://", "http://")):
            continue
        file = page.parent / path if path else page
        assert file.is_file(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}"


def test_all_pages_are_reached_from_the_readme() -> None:
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text()))
        found = {(page.parent / link).resolve() for link in links if link.endswith(".md") and "://" not in link}
        waiting += [link for link in found - reached if link not in waiting]
    assert {page.resolve() for page in PAGES if page.parent.name != "tutorials"} <= reached
    site = (REPOSITORY / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert str(page.relative_to(REPOSITORY)).removeprefix("docs/") in site, "not in mkdocs.yml's nav"


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= README_WORDS


def test_every_algorithm_and_method_has_a_row() -> None:
    algorithms = (REPOSITORY / "docs" / "algorithms.md").read_text()
    assert set(re.findall(r"^\| `(\w+)`(?: \\\*)? \| (?:\[|the same)", algorithms, re.M)) == set(algorithm.names())
    methods = (REPOSITORY / "docs" / "pretraining.md").read_text().split("## Methods")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", methods, re.M)) == set(method.names())


# Commands


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's blocks, those of ``--run-config "flags='...'"`` as one of run_fl.py's."""
    for language, block in FENCE.findall(page.read_text()):
        if language:
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # No shell, such as a log.
            if words[:2] == ["flwr", "run"] and "--run-config" in words:
                flags = re.findall(r"flags='(.*)'", words[words.index("--run-config") + 1])
                yield ["python", "run_fl.py", *shlex.split(flags[0])]
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words[:1] == ["python"]:
                yield words
            elif words[:1] == ["sbatch"]:
                yield ["python", "run_pretrain.py", *words[[w.endswith(".sbatch") for w in words].index(True) + 1 :]]


def split(command: list[str]) -> tuple[str, list[str]]:
    """A program, as ``run_fl.py`` or ``experiments.compare``, and its arguments."""
    arguments = command[2:]
    if command[1] == "-m":
        return command[2], command[3:]
    if arguments[:1] == ["preview"]:
        return f"{command[1]} preview", arguments[1:]
    return command[1], arguments


@cache
def flags_of(program: str) -> frozenset[str]:
    """The flags that a program's ``--help`` shows."""
    name, *more = program.split()
    out, argv, sys.argv = io.StringIO(), sys.argv, [name, *more, "--help"]
    try:
        with redirect_stdout(out):
            if name.endswith(".py"):
                runpy.run_path(str(REPOSITORY / name), run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        assert left.code in (0, None), f"{program} --help"  # noqa: PT017
    finally:
        sys.argv = argv
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", out.getvalue()))


PROGRAMS = (
    *("run_fl.py", "run_pretrain.py", "run_pretrain.py preview", "tests.tools.same_as", "tests.tools.random_kills"),
    *("federated.predict", "federated.export", "fps_pretrain.publish"),
    *(f"experiments.{name}" for name in ("compare", "report", "probe", "curve", "table")),
    *(f"experiments.analyses.{name}" for name in ("every", "convergence", "stability")),
)


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_flags_are_options_of_the_programs(page: Path) -> None:
    for command in commands(page):
        program, arguments = split(command)
        if (
            program.startswith(("docs/", "tests.tools.options_page"))
            or program == "tests.fps_pretrain.fractals.reference"
        ):
            continue
        used = {word.partition("=")[0] for word in arguments if re.match(r"--[a-z]", word)}
        # What the example of an algorithm adds, when its file is there.
        used -= {"--fedexp-epsilon"}
        assert used <= flags_of(program), f"{' '.join(command)}: no {used - flags_of(program)}"
    known = frozenset().union(*map(flags_of, PROGRAMS)) | FOREIGN_FLAGS | {"--fedexp-epsilon", "--help"}
    text = FENCE.sub("", page.read_text())
    for span in re.findall(r"`(--[a-z][^`]*|[^`]*\.py --[^`]*)`", text):
        used = {word.partition("=")[0] for word in span.split() if re.match(r"--[a-z]", word)}
        assert used <= known, f"{name_of(page)}: `{span}`"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository from inside, to run commands and code in."""
    for name in ("checkpoints", "experiments"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_are_accepted(page: Path, checkout: Path) -> None:
    """Values, too, and options that go together, as far as a command has no placeholders."""
    parsers = {
        "run_fl.py": run_fl.parse,
        "run_pretrain.py": lambda words: cli.parse(PretrainConfig, "run_pretrain.py", words),
        "run_pretrain.py preview": lambda words: cli.parse(PreviewConfig, "preview", words),
        "experiments.compare": compare.parse,
    }
    for command in commands(page):
        program, arguments = split(command)
        placeholders = any(re.search(r"\.\.\.|^\[|^[A-Z]+$|=VALUE|^runs/", word) for word in arguments)
        if program in parsers and not (placeholders and "--data-dir" not in arguments) and "fedexp" not in arguments:
            parsers[program](arguments)


# Code

BLOCKS = [
    pytest.param(page, code, id=f"{name_of(page)}-{number}")
    for page in PAGES
    if page.name != "CONTRIBUTING.md"  # tests/test_contributing.py
    for number, code in enumerate(code for language, code in FENCE.findall(page.read_text()) if language == "python")
]


@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_code_runs_as_it_stands(page: Path, code: str, checkout: Path) -> None:
    if "from fps_pretrain import" in code:
        assert len([line for line in code.splitlines() if line.strip()]) <= 10
    torch.manual_seed(0)
    exec(compile(code, name_of(page), "exec"), names := {"__name__": "__main__"})
    if "loss" in names:
        assert torch.isfinite(torch.as_tensor(names["loss"]))


@pytest.mark.parametrize("page", ["README.md", "docs/python-api.md"])
def test_there_is_code_to_run(page: str) -> None:
    assert any(page == name_of(block.values[0]) for block in BLOCKS)


# Tutorials


def run_tutorial(name: str, folder: Path) -> str:
    path = REPOSITORY / "docs" / "tutorials" / name
    assert len(path.read_text().splitlines()) <= 60
    command = [sys.executable, str(path), str(folder)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=900).stdout


@pytest.mark.slow
def test_tutorial_own_images(tmp_path: Path) -> None:
    said = run_tutorial("own_images.py", tmp_path / "own images")
    ends = {line.split("  ")[0].strip(): float(line.split()[-1].rstrip("%")) for line in said.splitlines()[:2]}
    assert set(ends) == {"random weights", "fractal start"}
    assert ends["fractal start"] > max(50, ends["random weights"])
    assert (tmp_path / "own images" / "fractal" / "partition.png").is_file()


@pytest.mark.slow
def test_tutorial_look_inside(tmp_path: Path) -> None:
    said = run_tutorial("look_inside.py", tmp_path)
    assert [line.split()[0] for line in said.splitlines()[:2]] == ["random", "trained"]
    for picture in re.findall(r"\S+\.(?:png|html)$", said, re.M):
        assert Path(picture).is_file()


def test_the_site_builds(tmp_path: Path) -> None:
    """``make docs``: MkDocs ends with an error at a link or an anchor that leads nowhere."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=600)
    home = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r"""(?:src|<link[^>]* href)=["']https?://""", home)  # nothing from elsewhere
    assert 'id="hljs-light"' in home  # without it the switch between light and dark is broken
    assert "experiments/results/cifar10-grid-dirichlet0.1/curves.png" in home
    assert (tmp_path / "site" / "experiments/results/cifar10-grid-dirichlet0.1/curves.png").is_file()
    assert (tmp_path / "site" / "tutorials" / "own_images.py").is_file()
