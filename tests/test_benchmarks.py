"""The benchmark of federations measures all engines on the same work, here a tiny one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.federation import __main__ as federation
from benchmarks.federation.engines import ENGINES, NEEDS, missing


def measured(monkeypatch: pytest.MonkeyPatch, file: Path, *engines: str) -> dict[str, dict[str, object]]:
    arguments = ["--cases", "4x3", "--rounds", "2", "--turns", "1", "--json", str(file), "--engines", *engines]
    monkeypatch.setattr("sys.argv", ["benchmarks.federation", *arguments])
    federation.main()
    return {row["engine"]: row for row in json.loads(file.read_text())["rows"]}


def test_a_row_has_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (row,) = measured(monkeypatch, tmp_path / "rows.json", "plain loop").values()
    assert {name: row[name] for name in ("model", "clients", "images", "precision")} == {
        "model": "resnet20", "clients": 4, "images": 3, "precision": "32",
    }  # fmt: skip
    assert all(float(str(row[name])) > 0 for name in ("seconds_per_round", "startup_seconds", "peak_mb"))


@pytest.mark.slow
def test_all_engines_that_are_installed_do_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = measured(monkeypatch, tmp_path / "rows.json", *ENGINES)
    assert list(rows) == [engine for engine in ENGINES if missing(engine) is None]


def test_an_engine_whose_library_is_missing_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(NEEDS, "Flower", ("no_such_library",))
    assert not measured(monkeypatch, tmp_path / "rows.json", "Flower")
    assert "Flower is left out: no_such_library is not installed" in capsys.readouterr().err
