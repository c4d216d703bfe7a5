"""Whatever a program is given: one clear line, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.malformed.attempt import Case, attempt
from tests.tools.malformed.cases import every_case, is_alone

CASES = every_case()


@pytest.mark.parametrize("case", CASES[::13], ids=lambda case: f"{case.program}, {case.name!r}")
def test_some_malformed_inputs(case: Case, tmp_path: Path) -> None:
    assert attempt(case, tmp_path / "here") is None


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_all_malformed_inputs(number: int, tmp_path: Path) -> None:
    assert attempt(CASES[number], tmp_path / "here", alone=is_alone(number, CASES[number])) is None
