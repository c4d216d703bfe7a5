from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from federated.client.evaluation import of_splits
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data import sets
from federated.server.output import model_file
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from fps_pretrain.common.errors import UserError

Tiny = Callable[..., RunConfig]

FIELDS: dict[str, Any] = {"keep_best": True, "validation": 0.3, "rounds": 4, "lr": 0.3}


def best(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "best.pt", weights_only=True)


def test_the_best_round_is_kept(tiny: Tiny) -> None:
    config = tiny(**FIELDS)
    result = run(config, quiet=True)
    kept = best(result.folder)
    accuracies = [row["val_accuracy"] for row in result.history]
    assert kept["round"] == accuracies.index(max(accuracies))
    assert kept["val_accuracy"] == max(accuracies)
    dataset = sets.load(config)
    assert of_splits(Workspace.build(config, dataset, []), kept["state_dict"])["val_accuracy"] == max(accuracies)


def test_the_earliest_of_equals() -> None:
    rows = [{"round": number, "val_accuracy": value} for number, value in enumerate([0.1, None, 0.4, 0.4, 0.2])]
    assert model_file.best_row(rows) == rows[2]
    assert model_file.best_row([{"round": 0, "val_accuracy": None}]) is None


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3, 4])
def test_a_run_that_is_killed_before_it_writes_the_best_round_writes_it_later(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    whole = best(run(tiny(**FIELDS, output=tmp_path / "whole"), quiet=True).folder)
    original = RunFolder.keep_best

    def killed(folder: RunFolder, config: RunConfig, classes: tuple[str, ...], state: Any) -> None:
        if state.round == killed_after:
            raise KeyboardInterrupt
        original(folder, config, classes, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "keep_best", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(**FIELDS), quiet=True)
    kept = best(run(tiny(**FIELDS), quiet=True).folder)
    assert kept["round"] == whole["round"]
    assert all(tensor.equal(kept["state_dict"][name]) for name, tensor in whole["state_dict"].items())


def test_it_changes_nothing_else_and_needs_validation_images(tiny: Tiny) -> None:
    folder = run(tiny(rounds=1), quiet=True).folder
    assert not (folder / "best.pt").exists()
    with pytest.raises(UserError, match="--keep-best False"):
        run(tiny(rounds=1, keep_best=True), quiet=True)
    with pytest.raises(UserError, match="needs --validation above 0"):
        tiny(keep_best=True, validation=0.0)
