"""Options as fields: checks, completion, and what is read from files without running them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro
from annotated_types import Ge, Gt, Le, Lt

from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import (
    MAY_DIFFER,
    Count,
    Option,
    OptionFiles,
    OptionSet,
    Positive,
    docs_of,
    fields_of,
    goes_with,
    shared,
)
from fps_pretrain.common.options.flags import Merged
from fps_pretrain.common.options.text import tables


@dataclass(frozen=True)
class Example(OptionSet):
    """An example"""

    kind: Literal["a", "b", "c"] = "a"
    """What kind."""
    share: Annotated[Annotated[float, Gt(0), Lt(1)] | None, goes_with("kind", "a", "b", default=0.5)] = None
    """How much of it,
    in all."""
    count: Annotated[Count | None, MAY_DIFFER] = None
    """How many."""
    page: Annotated[int, Ge(1), Le(9)] = 1
    rate: Positive = 1.0
    name: Annotated[str, Option(choices=lambda: ("x", "y"))] = "x"
    where: Path | None = None
    words: tuple[str, ...] = ()
    loud: bool = False
    size: Literal["auto"] | Count = "auto"


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("kind", "d", "--kind d is unknown: choose one of a, b, c"),
        ("kind", 3, "--kind 3 is unknown: choose one of a, b, c"),
        ("name", "z", "--name z is unknown: choose one of x, y"),
        ("share", 1.0, "--share must satisfy 0 < value < 1, got 1.0"),
        ("share", float("nan"), "--share must satisfy 0 < value < 1, got nan"),
        ("count", 0, "--count must be at least 1, got 0"),
        ("count", "3", "--count must be of type int or nothing, got '3'"),
        ("count", True, "--count must be of type int or nothing, got True"),
        ("page", 10, "--page must be in 1 .. 9, got 10"),
        ("page", True, "--page must be of type int, got True"),  # though it is equal to the default
        ("rate", -1, "--rate must satisfy 0 < value, got -1"),
        ("rate", float("inf"), "--rate must satisfy 0 < value, got inf"),
        ("rate", None, "--rate must be of type float, got None"),
        ("where", "here", "--where must be of type Path or nothing, got 'here'"),
        ("words", ("a", 1), "--words must be of type tuple, got ('a', 1)"),
        ("size", 0, "--size must be at least 1, got 0"),  # rather than that it is not auto
        ("size", "x", "--size must be of type auto or int, got 'x'"),
        ("loud", 1, "--loud must be of type bool, got 1"),
        ("name", "z" * 1000, f"--name {'z' * 37}...{'z' * 38} is unknown: choose one of x, y"),
    ],
)
def test_a_value_of_another_type_or_range_is_one_line(field: str, value: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        Example(**{field: value})
    assert str(error.value) == line


def test_values_of_the_type_are_taken() -> None:
    example = Example(kind="b", share=0.1, count=3, rate=2, name="y", where=Path("x"), words=("a",), loud=True)
    assert (example.share, example.rate) == (0.1, 2)


def test_defaults_follow_the_choice_and_are_worked_out_anew() -> None:
    assert (Example().share, Example(kind="c").share) == (0.5, None)
    assert replace(Example(), kind="c").share is None
    assert replace(Example(kind="c"), kind="b").share == 0.5
    assert replace(Example(share=0.2), kind="b").share == 0.2
    assert replace(Example(), share=0.2).share == 0.2
    assert Example(**vars(Example())) == Example()
    for share in (0.2, 0.5):  # the default, too
        with pytest.raises(UserError, match=r"^--share goes with --kind a or b, not with c$"):
            Example(kind="c", share=share)
    with pytest.raises(UserError, match="--share goes with"):
        replace(Example(share=0.2), kind="c")


def test_flags_are_as_strict_as_the_class_beside_a_default_instance(capsys: pytest.CaptureFixture[str]) -> None:
    program = make_dataclass("Program", [("example", Example, Example(kind="b"))], frozen=True)
    assert cli.parse(program, "prog", []).example.share == 0.5
    assert cli.parse(program, "prog", ["--example.kind", "c"]).example == Example(kind="c")
    with pytest.raises(SystemExit) as exit_:
        cli.parse(program, "prog", ["--example.kind", "c", "--example.share", "0.5"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "prog: error: --share goes with --kind a or b, not with c (see prog --help)\n"


def test_help_says_what_the_fields_say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_:
        cli.parse(Example, "prog", ["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "How much of it, in all. (0 < value < 1; with --kind a or b, default 0.5)" in text
    assert "(1 .. 9; default 1)" in text
    assert "(one of x, y; default x)" in text
    ((title, table),) = tables(Example)
    assert title == "An example"
    line = "| `--share` | number, 0 < value < 1 | with --kind a or b, default 0.5 | How much of it, in all. |"
    assert line in table.splitlines()
    assert "| `--count` | whole number, at least 1 |  | How many. May differ when a run is resumed. |" in table


@dataclass(frozen=True)
class Program:
    """A program that goes about an example."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]")]
    """What to read."""
    example: Annotated[Example, Merged(only=("kind", "share", "count", "page"), instead=(("count", "--counts"),))] = (
        field(default_factory=lambda: Example(kind="b", rate=3.0))
    )
    """Options of the example."""
    counts: tuple[int, ...] = ()
    """How many, in a sentence that is
    broken (in two) in the source."""
    title: str = ""
    """What to write above."""
    limit: int | None = None
    """Read no more."""


def test_help_of_any_configuration_says_what_its_fields_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.parse(Program, "prog", ["--help"])
    text = capsys.readouterr().out
    assert "prog [-h] [OPTIONS] PATH [PATH ...]" in text
    assert "What to read. (required)" in text
    assert "How many, in a sentence that is broken (in two) in the source. (default none)" in text
    assert "(default: " not in text
    assert re.findall(r"^[^\w\n]*--(\w+)", text, re.M) == ["counts", "title", "limit", "kind", "share", "page"]


def test_options_that_are_merged_but_for_some() -> None:
    assert cli.read(Program, "prog", ["x"]) == Program((Path("x"),))
    made = cli.read(Program, "prog", ["x", "--kind", "a", "--share", "0.2", "--counts", "1", "2"])
    assert (made.example, made.counts) == (Example(kind="a", share=0.2, rate=3.0), (1, 2))
    for flags, words in (
        (["--count", "3"], "the program takes --counts, not --count"),
        (["--count=3"], "the program takes --counts, not --count"),
        (["--rate", "3"], "Unrecognized options: --rate"),
        (["--kind", "c", "--share", "0.5"], "--share goes with --kind a or b, not with c"),
    ):
        with pytest.raises(UserError, match=words):
            cli.read(Program, "prog", ["x", *flags])


@dataclass(frozen=True)
class Narrower(Example):
    """An example with a field of its base described anew."""

    kind: Literal["a", "b"] = "b"
    """Which of the two kinds."""


@dataclass(frozen=True)
class Base:
    """What the classes in files are derived from."""


def write(folder: Path, name: str, *lines: str) -> None:
    head = [
        "from __future__ import annotations",
        "import a_module_that_there_is_not",
        "from dataclasses import dataclass",
        "from typing import Annotated",
        "from annotated_types import Gt",
        f"from {__name__} import Base",
    ]
    options = ["@dataclass(frozen=True)", "class Options(Base):", "    'Options.'", *(f"    {line}" for line in lines)]
    (folder / f"{name}.py").write_text("\n".join([*head, *options, "raise RuntimeError('not to be run')", ""]))


def test_options_are_read_without_running_their_file(tmp_path: Path) -> None:
    write(tmp_path, "one", "rate: Annotated[float, Gt(0)] = 0.1", "'How fast.'", "size: int = 3")
    write(tmp_path, "two", "rate: Annotated[float, Gt(0)] = 0.2")
    write(tmp_path, "none")
    (tmp_path / "helper.py").write_text("raise RuntimeError('not to be run')\n")
    files = OptionFiles(tmp_path, Base)
    assert list(files.all) == ["none", "one", "two"]
    assert {one.name: one.default for one in fields_of(files.all["one"])} == {"rate": 0.1, "size": 3}
    assert docs_of(files.all["one"]) == {"rate": "How fast."}
    assert isinstance(files.all["none"](), Base)
    rate, size = shared(files.all, "kind")
    assert (rate[0], size[0]) == ("rate", "size")
    together = make_dataclass("Together", [("kind", str, "one"), rate, size], bases=(OptionSet,), frozen=True)
    assert (together().rate, together(kind="two").rate, together(kind="none").rate) == (0.1, 0.2, None)
    with pytest.raises(UserError, match="--rate must satisfy 0 < value"):
        together(rate=-1.0)


def test_a_field_that_is_described_anew_has_the_new_description() -> None:
    assert docs_of(Narrower)["kind"] == "Which of the two kinds."
    assert docs_of(Narrower)["count"] == docs_of(Example)["count"] == "How many."


def test_one_name_has_one_type(tmp_path: Path) -> None:
    write(tmp_path, "one", "rate: Annotated[float, Gt(0)] = 0.1")
    write(tmp_path, "two", "rate: int = 1")
    with pytest.raises(TypeError, match="rate has different types in one, two"):
        shared(OptionFiles(tmp_path, Base).all, "kind")
