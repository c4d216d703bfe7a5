from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

import run_fl
from federated.config.run import RunConfig
from federated.results import evaluation
from federated.server.output.run_folder import RunFolder
from fps_pretrain.common.errors import UserError


def test_the_metrics_are_sklearns() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 200)
    predicted = np.where(rng.random(200) < 0.4, labels, rng.integers(0, 5, 200))  # of class 4 there are no images
    found = evaluation.measure(torch.from_numpy(predicted), torch.from_numpy(labels), list("abcde"))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    with pytest.warns(UserWarning, match="not in y_true"):
        assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found.confusion == metrics.confusion_matrix(labels, predicted).tolist()
    assert found.class_accuracy["e"] is None
    assert found.class_accuracy["b"] == pytest.approx((predicted[labels == 1] == 1).mean())


def test_a_run_ends_with_its_evaluation(
    tiny: Callable[..., RunConfig], pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(rounds=1)
    assert run_fl.main(run_fl.Command(config, quiet=True)) == 0
    said = json.loads((config.folder / "evaluation.json").read_text())
    assert said["accuracy"] == pytest.approx(RunFolder(config.folder).history()[-1]["test_accuracy"])
    assert said["examples"] == np.sum(said["confusion"]) == 20
    assert list(said["class_accuracy"]) == list("0123456789")
    assert (config.folder / "confusion.png").stat().st_size > 5_000
    monkeypatch.setattr(evaluation.sets, "load", lambda _: pytest.fail("evaluated twice"))
    assert run_fl.main(run_fl.Command(config, quiet=True)) == 0


def test_a_run_without_its_evaluation_gets_it_later(
    config: RunConfig, copied: Callable[[], Path], tiny: Callable[..., RunConfig]
) -> None:
    folder = copied()
    again = tiny(validation=0.3, keep_best=True, output=folder)
    assert evaluation.evaluate(again) == folder / "evaluation.json"
    (folder / "evaluation.json").unlink()
    with RunFolder(folder).locked(), pytest.raises(UserError, match="another process"):
        evaluation.evaluate(again)
    other = replace(again, limit_test=again.limit_test - 1)
    with pytest.raises(UserError, match="was made with other data than digits holds now"):
        evaluation.evaluate(other)
    assert not (folder / "evaluation.json").exists()
    (folder / "model.pt").unlink()
    assert evaluation.evaluate(again) is None


def test_pictures_of_few_and_many_classes(tmp_path: Path, pictures: None) -> None:
    for count in (2, 25, 200):
        evaluation.draw(tmp_path / f"{count}.png", np.eye(count, dtype=np.int64), ["$x_" * 20] * count, "run")
        with Image.open(tmp_path / f"{count}.png") as picture:
            picture.load()
            assert picture.format == "PNG"
            assert 300 < min(picture.size) <= max(picture.size) < 3000
        assert (tmp_path / f"{count}.png").stat().st_size < 300_000
