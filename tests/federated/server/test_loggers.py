from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from federated.config.run import RunConfig
from federated.server.output import loggers
from federated.server.run import RunFailed, run
from fps_pretrain.common.errors import UserError

Tiny = Callable[..., RunConfig]


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values by name."""
    events = EventAccumulator(str(folder / loggers.TENSORBOARD))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_each_round_once_however_often_a_run_is_resumed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federated.algorithms import fedavg

    original = fedavg.train_client

    def failing(client: Any, weights: Any) -> Any:
        if client.key[1] == 3:
            raise ValueError("power cut")
        return original(client, weights)

    with monkeypatch.context() as patch:
        patch.setattr(fedavg, "train_client", failing)
        with pytest.raises(RunFailed):
            run(tiny(tensorboard=True, rounds=4), quiet=True)
    result = run(tiny(tensorboard=True, rounds=4), quiet=True)
    scalars = logged(result.folder)
    assert scalars["test_accuracy"] == [
        (row["round"], pytest.approx(row["test_accuracy"], rel=1e-6)) for row in result.history
    ]
    assert [step for step, _ in scalars["train_loss"]] == [1, 2, 3, 4]


def test_no_tensorboard_unless_asked_for(tiny: Tiny) -> None:
    assert not (run(tiny(rounds=1), quiet=True).folder / loggers.TENSORBOARD).exists()


def test_only_numbers_are_logged() -> None:
    row = {"round": 3, "test_accuracy": 0.5, "val_loss": None, "participants": [1], "clients": {}, "failed": True}
    assert loggers.scalars(row) == {"test_accuracy": 0.5}


def test_without_wandb(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "wandb" else original(name))
    with pytest.raises(UserError, match=r"pip install 'fps-federated\[wandb\]'"):
        run(tiny(wandb=True), quiet=True)
    assert not tiny().folder.exists()


def test_wandb_offline(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'fps-federated[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(tiny(wandb=True, rounds=1), quiet=True).folder
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
