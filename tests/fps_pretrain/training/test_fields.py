"""What each field of a configuration does."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals.code_file import write_codes
from fps_pretrain.pairs.data_module import make_source
from fps_pretrain.pairs.device import DeviceFractalSource
from fps_pretrain.training import run as train
from tests.fps_pretrain.pairs.test_gallery import codes_of_seed
from tests.fps_pretrain.training.runs import run

CHANGES = {
    "method": "moco",
    "method_options": ("temperature=1",),
    "source": "folder:images",
    "preset": "paper",
    "arch": "resnet20",
    "width": 2,
    "size": 48,
    "epochs": 3,
    "pairs_per_epoch": 16,
    "batch_size": 12,
    "lr": 0.3,
    "optimizer": "adamw",
    "schedule": "step",
    "warmup_pairs": 16,
    "momentum": 0.0,
    "weight_decay": 0.5,
    "ema": 0.5,
    "classes": 7,
    "codes": "codes.npz",
    "pool": 64,
    "renders": "shared",
    "recipe_numbers": ("compose.scale_low=0.7",),
    "render": "device",
    "objects": (1, 3),
    "colour": "jitter",
    "jitter": "none",
    "background": "diamond-square",
    "composed_views": 1,
    "seed": 1,
    "precision": "bf16",
    "compile": True,
    "workers": 1,
    "threads": 2,
    "device": "cuda",
    "devices": 3,
    "nodes": 3,
    "log_every": 3,
    "save_every": 1,
    "state_every": 0.0,
    "probe_every": 8,
    "probe_data": "nowhere",
    "linear_probe": True,
    "mlflow": True,
    "serve": 1,
    "output": "other.pt",
    "run_dir": "other-run",
    "resume": False,
}


def write_images(folder, count=12, size=40):
    """Images of random blocks, one colour the clearest."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        blocks = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), cv2.resize(blocks, (size, size), interpolation=cv2.INTER_NEAREST))
    return folder


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(PretrainConfig)])
def test_every_field_has_an_effect(field, baseline, tmp_path, no_probe, monkeypatch):
    value = CHANGES[field]
    refused = ("method_options", "probe_data", *(["device"] if not torch.cuda.is_available() else []))
    if field in refused:
        with pytest.raises(UserError, match=field.replace("_", "-")):
            run(tmp_path, **{field: value})
        return
    if field == "mlflow":
        return  # test_loggers.py
    if field == "serve":
        asked = []
        monkeypatch.setattr(train, "serving", lambda folder, port: asked.append((folder, port)) or nullcontext())
        run(tmp_path, serve=value)
        assert asked == [(tmp_path / "run", value)]
        return
    if field == "compile":  # takes a minute; test_compiled_networks_learn_the_same is the slow test of it
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(UserError, match="no-such-compiler"):
            run(tmp_path, compile=True)
        assert not (tmp_path / "run").exists()
        return
    if field == "warmup_pairs":
        with pytest.raises(UserError, match="--schedule step"):
            PretrainConfig(warmup_pairs=value)
        cold, warm = (run(tmp_path / str(pairs), schedule="step", warmup_pairs=pairs) for pairs in (0, value))
        assert cold["digest"] != warm["digest"]
        return
    if field in ("devices", "nodes"):
        with pytest.raises(UserError, match="multiple"):
            PretrainConfig(batch_size=8, **{field: value})
        assert PretrainConfig(batch_size=12, **{field: value}).world_size == 3
        return
    if field == "source":
        changed = run(tmp_path, source=f"folder:{write_images(tmp_path / 'images')}")
        assert changed["digest"] != baseline["digest"]
        assert changed["recorded"]["source"].startswith("folder:")
        return
    if field == "preset":
        paper = PretrainConfig(preset="paper").resolve(has_gpu=False)
        quick = PretrainConfig(preset="auto").resolve(has_gpu=False)
        assert (paper.epochs, paper.pairs_per_epoch, paper.batch_size) == (100, 1_000_000, 256)
        assert paper.output == Path("checkpoints/fps_r20_paper.pt")
        assert quick.output == Path("checkpoints/fps_r20_quick.pt")
        assert PretrainConfig(preset="auto").resolve(has_gpu=True).preset == "paper"
        return
    if field in ("output", "run_dir", "codes"):
        value = tmp_path / value
    if field == "codes":
        write_codes(value, *codes_of_seed(7, 100))
    if field == "render":
        changed = run(tmp_path, render=value)
        # the same pairs but for last bits
        for ours, theirs in zip(changed["log"], baseline["log"], strict=True):
            assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), abs=1e-3)
        assert isinstance(make_source(PretrainConfig(render=value), torch.device("cpu")), DeviceFractalSource)
        return
    if field == "workers":
        made = []
        monkeypatch.setattr(train, "PairData", lambda c, s, w: made.append(w) or train_data(c, s, w))
        from fps_pretrain.pairs.data_module import PairData as train_data

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
    names = ("files", "digest", "lines", "threads", "probes")
    unchanged = [n for n in names if changed[n] == baseline[n]]
    assert set(unchanged) != set(names)
    if field != "threads":  # other sums, so other last bits
        bookkeeping = ("output", "run_dir", "save_every", "log_every", "state_every", "probe_every", "linear_probe")
        assert (changed["digest"] == baseline["digest"]) == (field in bookkeeping)
