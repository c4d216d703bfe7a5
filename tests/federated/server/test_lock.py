"""One process at a time works on a run; a finished run may be given again by anybody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from federated.algorithms import fedavg
from federated.config.run import RunConfig
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked
from tests.federated.conftest import outcome, run_quietly
from tests.federated.server.test_damage import stop_in_round


def test_a_finished_run_given_again_needs_no_lock(tiny: Callable[..., RunConfig]) -> None:
    first = run(tiny(rounds=1), quiet=True)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    with locked(first.folder):
        assert run(tiny(rounds=1), quiet=True).history == first.history
    assert before == {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    (first.folder / "model.pt").unlink()
    with locked(first.folder), pytest.raises(UserError, match="run is being worked on by another process"):
        run(tiny(rounds=1), quiet=True)


def test_a_new_run_is_locked_while_its_clients_train(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen, train = tiny(rounds=1), [], fedavg.train_client

    def train_client(*arguments: object) -> object:
        with pytest.raises(UserError, match="is being worked on by another process"), locked(config.folder):
            pass
        seen.append(1)
        return train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fedavg, "train_client", train_client)
    run(config, quiet=True)
    assert len(seen) == 3
    with locked(config.folder):
        pass


def test_what_another_process_has_done_before_the_lock_was_free_is_not_done_again(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(strategy="scaffold")
    whole = run_quietly(tiny(strategy="scaffold", output=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_in_round(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(config, quiet=True)
    lock = RunFolder.locked

    def locked_after_another(folder: RunFolder) -> AbstractContextManager[None]:
        monkeypatch.setattr(RunFolder, "locked", lock)
        run(config, quiet=True)  # the other process, to its end
        return lock(folder)

    monkeypatch.setattr(RunFolder, "locked", locked_after_another)
    result = run(config, quiet=True)
    assert outcome(result.folder) == whole
    assert result.resumed_from == 3
