"""What is measured of an encoder during a run, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.probing import quality
from fps_pretrain.probing.curves import read_log
from fps_pretrain.probing.probe_data import ProbeData
from fps_pretrain.probing.quality import QualityProbe
from tests.fps_pretrain.methods.small import make


class Pixels(nn.Module):
    """Features that are the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1)


def batch(epoch: int, first: int, count: int) -> Tensor:
    """Pairs of equal views, but that each of the first 64 second views is the next pair's first."""
    views = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.stack([views, torch.cat([views[:64].roll(-1, 0), views[64:]])])


def probe_of(folder: Path, **options: Any) -> QualityProbe:
    values = {"arch": "resnet8", "size": 16, "epochs": 2, "pairs_per_epoch": 24, "batch_size": 8, "run_dir": folder}
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 120, (40, 16, 16, 3)) + 100 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    data = ProbeData("shades", images[:30], labels[:30], images[30:], 1 - labels[30:])  # the queries' labels are wrong
    source: Any = SimpleNamespace(size=16, batch=batch)
    return QualityProbe(PretrainConfig(**values | options).resolve(has_gpu=False), source, data, Pixels())


def test_a_view_is_retrieved_by_its_own_partner(tmp_path: Path) -> None:
    measures, neighbours = probe_of(tmp_path).measure(Pixels())
    nearest = np.concatenate([np.roll(np.arange(64), 1), np.arange(64, 256)])
    np.testing.assert_array_equal(neighbours.order[:, 0], nearest)
    assert measures == {"knn_accuracy": 0.0, "pair_retrieval": 0.75}


def test_a_step_is_measured_once_and_compared_with_the_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([0.1, 0.2, 0.3])
    monkeypatch.setattr(QualityProbe, "measure", lambda self, encoder: ({"knn_accuracy": next(measured)}, None))
    probe = probe_of(tmp_path)
    found = [probe.measured_at(step, Pixels())[0]["knn_accuracy"] for step in (0, 3, 3, 4)]
    assert found == [0.1, 0.2, 0.2, 0.3]
    short = {"shades_knn": 0.3, "shades_knn_random": 0.1, "bank": 30, "queries": 10}
    assert probe.in_short({"knn_accuracy": found[-1]}) == short


def test_a_look_is_logged_with_the_pairs_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all records but the first, which is that of the losses."""
    monkeypatch.setattr(quality, "write_page", lambda *arguments: None)
    probe = probe_of(tmp_path)
    logged: list[tuple[int, float, int]] = []

    def record(number: int) -> Any:
        log = lambda values, step: logged.append((number, values["pairs_seen"], step))  # noqa: E731
        return SimpleNamespace(log_metrics=log, save=lambda: None)

    trainer: Any = SimpleNamespace(global_step=5, loggers=[record(0), record(1)])
    probe.look(trainer, Pixels())
    assert logged == [(1, 40.0, 5)]
    own = {"step": 5, "pairs_seen": 40, "knn_accuracy": 0, "pair_retrieval": 0.75}
    assert read_log(tmp_path, "probes") == ([own], 0)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, [3]), ({"probe_every": 16}, [2, 4]), ({"probe_every": 20}, [2, 4]), ({"probe_every": 0}, [])],
)
def test_an_encoder_is_looked_at_every_so_many_pairs_but_not_at_the_end(
    options: dict[str, int], steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    measures = {"knn_accuracy": 0.5, "pair_retrieval": 0.5}
    probe = probe_of(tmp_path, **options)
    monkeypatch.setattr(probe, "look", lambda trainer, encoder: looked.append(trainer.global_step) or measures)
    for step in range(1, 7):
        trainer: Any = SimpleNamespace(global_step=step, is_global_zero=True, callbacks=[])
        probe.on_train_batch_end(trainer, make("simclr"))
    assert looked == steps
