"""A run goes on with more rounds where it can, and another takes its place where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federated.config.run import RunConfig
from federated.results.evaluation import evaluate
from federated.server.output import file_names
from federated.server.output.history import read_history
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked
from tests.federated.conftest import outcome, run_quietly

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize("fields", [{}, {"strategy": "fedadam"}, {"bn_stats": "local"}, {"personal": "head"}])
def test_a_finished_run_goes_on_with_more_rounds(tiny: Tiny, tmp_path: Path, fields: dict[str, Any]) -> None:
    _, weights = run_quietly(tiny(output=tmp_path / "whole", rounds=4, **fields))
    short = tiny(rounds=2, **fields)
    run(short, quiet=True)
    before = evaluate(short)
    first = before and json.loads(before.read_text())
    longer = tiny(rounds=4, **fields)
    assert run(longer, quiet=True).resumed_from == 2
    assert outcome(longer.folder)[1] == weights
    assert RunFolder(longer.folder).config().rounds == 4
    after = evaluate(longer)
    assert (after and json.loads(after.read_text())) != first or fields.get("personal")
    with pytest.raises(UserError, match=r"--rounds 4 \(now 2\)"):
        run(short, quiet=True)


def test_a_run_that_is_killed_as_it_is_extended_is_whole(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_quietly(tiny(rounds=1))
    monkeypatch.setattr("federated.server.output.run_folder.to_yaml", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny(rounds=2), quiet=True)
    assert not (tiny().folder / file_names.MODEL).exists()
    assert run_quietly(tiny(rounds=1)) == whole


@pytest.mark.parametrize(
    "fields", [{"lr_schedule": "cosine"}, {"strategy": "scaffold"}, {"dp": "fixed", "bn_stats": "server"}]
)
def test_where_more_rounds_would_be_another_run_they_are_refused(tiny: Tiny, fields: dict[str, Any]) -> None:
    run(tiny(rounds=1, **fields), quiet=True)
    kept = read_history(tiny().folder)
    with pytest.raises(UserError, match=r"--rounds 1 \(now 2\)"):
        run(tiny(rounds=2, **fields), quiet=True)
    assert read_history(tiny().folder) == kept


def test_without_resuming_the_earlier_run_is_kept_aside(tiny: Tiny) -> None:
    first, other = tiny(rounds=1), tiny(rounds=1, lr=0.3)
    run(first, quiet=True)
    kept = outcome(first.folder)
    with pytest.raises(UserError, match="--no-resume keeps this one aside"):
        run(other, quiet=True)
    assert run(other, resume=False, quiet=True).resumed_from is None
    assert RunFolder(other.folder).config().lr == 0.3
    assert outcome(other.folder.with_name(f"{other.folder.name}.1")) == kept


def test_what_is_no_run_or_runs_elsewhere_is_not_put_aside(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny().folder
    run(tiny(rounds=1), quiet=True)
    with locked(folder), pytest.raises(UserError, match="another process"):
        run(tiny(rounds=1), resume=False, quiet=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").touch()
    with pytest.raises(UserError, match="is not a run"):
        run(tiny(output=tmp_path / "thesis"), resume=False, quiet=True)
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "thesis"])


def test_a_folder_with_a_dot_in_its_name_keeps_it(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(rounds=1, output=tmp_path / "digits-dirichlet0.5-random")
    run(config, quiet=True)
    run(config, resume=False, quiet=True)
    assert (tmp_path / "digits-dirichlet0.5-random.1" / file_names.MODEL).is_file()
