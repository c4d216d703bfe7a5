"""Training as a library: what each field does, resume, probe."""

import csv
import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fps_pretrain import checkpoint, probe, train
from fps_pretrain.config import PretrainConfig
from fps_pretrain.errors import UserError
from fps_pretrain.models import build_encoder

TINY = {"epochs": 2, "pairs_per_epoch": 24, "batch_size": 8, "workers": 0, "log_every": 1, "precision": "32"}

CHANGES = {
    "method": "unknown",
    "preset": "paper",
    "arch": "resnet32",
    "width": 2,
    "size": 48,
    "epochs": 3,
    "pairs_per_epoch": 16,
    "batch_size": 12,
    "lr": 0.3,
    "momentum": 0.0,
    "weight_decay": 0.5,
    "classes": 7,
    "objects": (1, 3),
    "colour": "jitter",
    "jitter": "none",
    "background": "diamond-square",
    "composed_views": 1,
    "seed": 1,
    "precision": "bf16",
    "workers": 1,
    "threads": 2,
    "device": "cuda",
    "log_every": 3,
    "save_every": 1,
    "output": "other.pt",
    "run_dir": "other-run",
    "resume": False,
}


def run(folder, **options):
    """Train in ``folder``; everything observable about the run."""
    values = {"output": folder / "out.pt", "run_dir": folder / "run"} | TINY | options
    config = PretrainConfig(**values)
    before = torch.get_num_threads()
    try:
        train.train(config)
        threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    content = checkpoint.read_file(config.output)
    with next((config.run_dir / "csv").rglob("metrics.csv")).open() as file:
        log = list(csv.DictReader(file))
    return {
        "digest": content["provenance"]["digest"],
        "recorded": content["provenance"]["config"],
        "threads": threads,
        "lines": len(log),
        "log": log,
        "files": sorted(p.name for p in folder.iterdir()) + sorted(p.name for p in config.run_dir.iterdir()),
    }


@pytest.fixture
def no_probe(monkeypatch):
    """The probe classifies 600 digits twice a run; these tests look elsewhere."""
    monkeypatch.setattr(train, "digits_knn", lambda encoder, size: 0.5)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "digits_knn", lambda encoder, size: 0.5)
        return run(tmp_path_factory.mktemp("baseline"))


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(PretrainConfig)])
def test_every_field_has_an_effect(field, baseline, tmp_path, no_probe, monkeypatch):
    value = CHANGES[field]
    if field == "method" or (field == "device" and not torch.cuda.is_available()):
        with pytest.raises(UserError, match=field):
            run(tmp_path, **{field: value})
        return
    if field == "preset":
        paper = PretrainConfig(preset="paper").resolve(has_gpu=False)
        quick = PretrainConfig(preset="auto").resolve(has_gpu=False)
        assert (paper.epochs, paper.pairs_per_epoch, paper.batch_size) == (100, 1_000_000, 256)
        assert paper.output == Path("checkpoints/fps_r20.pt")
        assert quick.output == Path("checkpoints/fps_r20_quick.pt")
        assert PretrainConfig(preset="auto").resolve(has_gpu=True).preset == "paper"
        return
    if field in ("output", "run_dir"):
        value = tmp_path / value
    if field == "workers":
        made = []
        monkeypatch.setattr(train, "FractalPairs", lambda c, w: made.append(w) or train_data(c, w))
        from fps_pretrain.data import FractalPairs as train_data

        changed = run(tmp_path, workers=value)
        assert made == [1]
        assert changed["digest"] == baseline["digest"]  # who renders does not matter
        return
    if field == "resume":
        run(tmp_path)
        changed = run(tmp_path, resume=value)
        assert "run.1" in changed["files"]
        return
    changed = run(tmp_path, **{field: value})
    names = ("files", "digest", "lines", "threads")
    unchanged = [n for n in names if changed[n] == baseline[n]]
    assert set(unchanged) != set(names)
    if field != "threads":  # other sums, so other last bits
        bookkeeping = ("output", "run_dir", "save_every", "log_every")
        assert (changed["digest"] == baseline["digest"]) == (field in bookkeeping)


def test_interrupted_and_resumed_equals_uninterrupted(baseline, tmp_path, no_probe, monkeypatch):
    """Ctrl-C after the second of six steps, in mid-epoch; the same command ends with the same weights."""
    from fps_pretrain.methods.simsiam import Method

    step = Method.training_step

    def interrupt(self, batch, batch_idx):
        if self.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Method, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert (tmp_path / "run" / "state.ckpt").is_file()
    assert not (tmp_path / "out.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(tmp_path)["digest"] == baseline["digest"]
    # finished: once more changes nothing
    assert run(tmp_path)["digest"] == baseline["digest"]
    assert not list(tmp_path.glob("out.*.pt"))


def test_a_run_folder_of_another_run_is_refused(tmp_path, no_probe):
    run(tmp_path)
    with pytest.raises(UserError, match="--seed"):
        run(tmp_path, seed=5)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(UserError, match="not a pre-training run"):
        run(tmp_path, run_dir=tmp_path / "notes")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, no_probe):
    with pytest.raises(UserError, match="loss is nan"):
        run(tmp_path, lr=1e30)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "out.pt").exists()


def test_training_lowers_the_loss_and_logs_it(baseline, tmp_path, no_probe):
    rows = run(tmp_path, epochs=4, pairs_per_epoch=320, batch_size=32, classes=50, lr=0.2)["log"]
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.02
    assert all(0 < float(row["embedding_spread"]) <= 1.1 for row in rows)
    lrs = [float(row["lr"]) for row in rows]
    assert lrs[0] == pytest.approx(0.2)
    assert float(baseline["log"][0]["lr"]) == pytest.approx(0.05 * 8 / 256)  # the default, linear in the batch
    assert lrs[-1] == pytest.approx(lrs[0] * 0.5 * (1 + np.cos(np.pi * 3 / 4)))
    assert list((tmp_path / "run" / "tensorboard").rglob("events*"))


def test_knn_separates_what_features_separate():
    """Bright against dark images: any encoder's features tell them apart; shuffled labels bring chance."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = (rng.integers(0, 60, (200, 16, 16, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    encoder = build_encoder("resnet20", seed=0)
    assert probe.knn_accuracy(encoder, images[:120], labels[:120], images[120:], labels[120:]) > 0.95
    assert encoder.training
    shuffled = rng.permutation(labels)
    assert 0.25 < probe.knn_accuracy(encoder, images[:120], shuffled[:120], images[120:], shuffled[120:]) < 0.75


def test_digits_probe_is_reproducible():
    encoder = build_encoder("resnet20", seed=0)
    accuracy = probe.digits_knn(encoder, 16)
    assert 0.3 < accuracy < 1.0
    assert probe.digits_knn(encoder, 16) == accuracy
