"""What a run finds in its folder, and what may change there before it has locked it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig, write_yaml
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.training import run, run_folder
from tests.fps_pretrain.training.runs import TINY


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(**TINY, run_dir=tmp_path / "run", output=tmp_path / "out.pt").resolve(has_gpu=False)


def before_the_lock(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """Have something happen after a run has looked into its folder and before it has locked it."""
    locked = run_folder.locked

    @contextmanager
    def late(folder: Path) -> Iterator[None]:
        happens()
        with locked(folder):
            yield

    monkeypatch.setattr(run_folder, "locked", late)


def finish(config: PretrainConfig, seed: int = 0, **changes: Any) -> None:
    """Write what a finished run leaves."""
    assert config.run_dir is not None
    assert config.output is not None
    config.run_dir.mkdir(exist_ok=True)
    write_yaml(config.run_dir / run_folder.CONFIG, config)
    digest, _ = save_encoder(config.output, build_encoder("resnet8", seed=seed), "resnet8", 1, {})
    result = {"digest": digest, "pairs_seen": 48} | changes
    (config.run_dir / run_folder.RESULT).write_text(json.dumps(result))


def test_a_folder_that_became_another_runs_is_refused(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before_the_lock(monkeypatch, lambda: finish(replace(config, seed=5)))
    with pytest.raises(UserError, match=r"--seed 5 \(now 0\)"), ExitStack() as held:
        run_folder.open_run(config, "32", held, {})


def test_a_run_that_another_process_has_finished_meanwhile_is_not_begun_again(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], probe_data: Path
) -> None:
    config = replace(config, probe_data=str(probe_data))
    before_the_lock(monkeypatch, lambda: finish(config))
    monkeypatch.setattr(run, "_fit", lambda *arguments: pytest.fail("it trains"))
    assert run.train(config) == 0
    assert "finished: " in capsys.readouterr().err


def test_a_result_is_that_of_the_encoder_beside_it(config: PretrainConfig) -> None:
    assert config.output is not None
    assert run_folder.result_of(config) is None
    finish(config)
    result = run_folder.result_of(config)
    assert result is not None
    assert result["pairs_seen"] == 48
    finish(config, pairs_seen="48")
    assert run_folder.result_of(config) is None
    finish(config)
    save_encoder(config.output, build_encoder("resnet8", seed=1), "resnet8", 1, {})  # another run's
    assert run_folder.result_of(config) is None
    config.output.unlink()
    assert run_folder.result_of(config) is None


def test_what_a_process_killed_at_the_start_has_left_is_no_other_run_and_goes(config: PretrainConfig) -> None:
    assert config.run_dir is not None
    config.run_dir.mkdir()
    for name in (".lock", ".config.yaml.77.partial"):
        (config.run_dir / name).touch()
    with ExitStack() as held:
        assert run_folder.open_run(config, "32", held, {}) == (config, None)
    assert sorted(path.name for path in config.run_dir.iterdir()) == [".lock", "config.yaml"]
