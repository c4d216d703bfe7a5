"""Training as a library: what each field does, resume, probe."""

import csv
import dataclasses
import random
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fps_pretrain.common.errors import TrainingDiverged, UserError
from fps_pretrain.config.pretrain import PretrainConfig, read_yaml, write_yaml
from fps_pretrain.fractals.code_file import write_codes
from fps_pretrain.models import checkpoint
from fps_pretrain.pairs.data_module import make_source
from fps_pretrain.pairs.device import DeviceFractalSource
from fps_pretrain.probing import quality
from fps_pretrain.training import resume as state
from fps_pretrain.training import run as train
from fps_pretrain.training import run_folder, trainer
from tests.fps_pretrain.pairs.test_gallery import codes_of_seed
from tests.tools import random_kills

TINY = {"epochs": 2, "pairs_per_epoch": 24, "batch_size": 8, "workers": 0, "log_every": 1, "precision": "32"}

CHANGES = {
    "method": "moco",
    "method_options": ("temperature=1",),
    "source": "folder:images",
    "preset": "paper",
    "arch": "resnet32",
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
    "classes": 7,
    "codes": "codes.npz",
    "pool": 64,
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
        "files": sorted(p.name for p in [*folder.iterdir(), *config.run_dir.iterdir()]),
        "probes": (config.run_dir / "probes" / "version_0" / "metrics.csv").read_text().splitlines(),
    }


def without_probe(patch):
    """A probe and its page take seconds; most of these tests look elsewhere."""

    def measure(self, encoder):
        linear = {"linear_accuracy": 0.25} if self.config.linear_probe else {}
        return {"knn_accuracy": 0.5, "pair_retrieval": 0.25, **linear}, None

    patch.setattr(quality.QualityProbe, "measure", measure)
    patch.setattr(quality, "write_page", lambda *arguments: None)


@pytest.fixture
def no_probe(monkeypatch):
    without_probe(monkeypatch)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_probe(patch)
        return run(tmp_path_factory.mktemp("baseline"))


@pytest.fixture(scope="module")
def moco_baseline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_probe(patch)
        return run(tmp_path_factory.mktemp("moco"), method="moco", method_options=("queue=16",))


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
        assert paper.output == Path("checkpoints/fps_r20.pt")
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


def test_the_precision_is_resolved_once_and_kept_on_another_machine(tmp_path, capsys):
    config = PretrainConfig(output=tmp_path / "out.pt", run_dir=tmp_path / "run", **TINY | {"precision": "auto"})
    config = config.resolve(has_gpu=False)
    begun, _ = run_folder.open_run(config, native="bf16")
    assert begun.precision == "bf16"
    assert read_yaml(tmp_path / "run" / "config.yaml")["precision"] == "bf16"
    assert not capsys.readouterr().err
    resumed, _ = run_folder.open_run(config, native="32")
    assert resumed == begun
    assert capsys.readouterr().err.count("goes on in bfloat16") == 1
    with pytest.raises(UserError, match="--precision"):
        run_folder.open_run(dataclasses.replace(config, precision="32"), native="32")
    # a folder of revision 0.1 holds what was asked for, not what was taken
    write_yaml(tmp_path / "run" / "config.yaml", config)
    assert run_folder.open_run(config, native="32")[0].precision == "32"


def test_a_run_stores_its_precision(tmp_path, no_probe, monkeypatch):
    monkeypatch.setattr(train, "native_precision", lambda gpu: "bf16")
    assert run(tmp_path, precision="auto")["recorded"]["precision"] == "bf16"
    monkeypatch.setattr(train, "native_precision", lambda gpu: "32")
    (tmp_path / "out.pt").unlink()  # made again from the state
    assert run(tmp_path, precision="auto")["recorded"]["precision"] == "bf16"


@pytest.mark.parametrize("method", ["simsiam", "moco"])
def test_a_state_of_any_step_resumes_exactly(method, baseline, moco_baseline, tmp_path, no_probe, monkeypatch):
    """Also one saved at the end of an epoch, before the learning rate has changed and the encoder is saved."""
    options = {"method": method, "save_every": 1}
    if method == "moco":
        options["method_options"] = ("queue=16",)
    save = state.StateIO.save_checkpoint

    def save_and_keep(self, content, path, storage_options=None):
        save(self, content, path)
        shutil.copy(self.folder / state.STATE, tmp_path / f"step{content['global_step']}")

    with monkeypatch.context() as patch:
        patch.setattr(state.StateIO, "save_checkpoint", save_and_keep)
        whole = run(tmp_path / "whole", state_every=0.0, **options)
    assert whole["digest"] == {"simsiam": baseline, "moco": moco_baseline}[method]["digest"]
    for step in range(1, 6):
        folder = tmp_path / f"from{step}"
        (folder / "run").mkdir(parents=True)
        shutil.copy(tmp_path / f"step{step}", folder / "run" / state.STATE)
        shutil.copy(tmp_path / "whole" / "run" / "config.yaml", folder / "run")
        resumed = run(folder, **options)
        assert resumed["digest"] == whole["digest"]
        assert len(resumed["log"]) == 6 - step
        assert ("encoder-epoch001.pt" in resumed["files"]) == (step < 3)  # that of step 3 is older than its state
        assert "encoder-epoch002.pt" in resumed["files"]


def test_killed_at_random_moments_a_run_ends_with_the_same_weights(tmp_path):
    """MoCo, which has the most to remember: momentum encoder, queue and its place in it."""
    rng = random.Random(0)
    whole = random_kills.configuration(tmp_path / "whole", "moco")
    killed = random_kills.configuration(tmp_path / "killed", "moco")
    random_kills.kill_until_done(whole, 0, rng)
    random_kills.kill_until_done(killed, 5, rng)
    assert random_kills.digest(killed) == random_kills.digest(whole)
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_a_finished_run_given_again_does_nothing_more(baseline, tmp_path, no_probe, capsys, monkeypatch):
    run(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "config.yaml"}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.L, "Trainer", lambda **options: pytest.fail("it trains again"))
        run(tmp_path)
    assert "finished" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "config.yaml"}
    (tmp_path / "out.pt").unlink()  # lost, it is made again from the state
    assert run(tmp_path)["digest"] == baseline["digest"]


@pytest.mark.parametrize("tear", [lambda data: data[: len(data) // 2], lambda data: b"", None])
def test_a_torn_state_falls_back_to_the_one_before(tear, baseline, tmp_path, no_probe, monkeypatch, capsys):
    step = train.PairMethod.training_step

    def interrupt(self, batch, batch_idx):
        if self.global_step == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(train.PairMethod, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, state_every=0.0)
    path = tmp_path / "run" / state.STATE
    data = bytearray(path.read_bytes())
    if tear is None:  # a block that never reached the disk
        data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
        path.write_bytes(data)
    else:
        path.write_bytes(tear(bytes(data)))
    assert state.newest_state(tmp_path / "run") == tmp_path / "run" / state.PREVIOUS
    resumed = run(tmp_path)
    assert "torn" in capsys.readouterr().err
    assert resumed["digest"] == baseline["digest"]
    rows = list(csv.DictReader((tmp_path / "run" / "csv" / "version_1" / "metrics.csv").open()))
    assert int(rows[0]["step"]) == 3


def test_a_full_disk_leaves_the_last_good_state(baseline, tmp_path, no_probe, monkeypatch):
    opened = Path.open
    writes = []

    def failing_open(self, mode="r", *args, **options):
        if state.STATE in self.name and "w" in mode:
            writes.append(self)
            if len(writes) == 3:
                file = opened(self, mode, *args, **options)
                file.write(b"half")
                file.close()
                raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing_open)
        with pytest.raises(OSError, match="No space"):
            run(tmp_path, state_every=0.0)
    assert not list((tmp_path / "run").glob(".*.partial"))
    assert state.newest_state(tmp_path / "run").name == state.STATE
    assert run(tmp_path)["digest"] == baseline["digest"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, no_probe, monkeypatch):
    """Also when the weights are spoilt before the loss: a state with them in it is never saved."""
    step = train.PairMethod.training_step

    def spoil(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * float("inf") if self.global_step == 3 else loss  # gradients that are not finite

    monkeypatch.setattr(train.PairMethod, "training_step", spoil)
    with pytest.raises(TrainingDiverged, match="step 3") as error:
        run(tmp_path, state_every=0.0)
    assert error.value.exit_code == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "out.pt").exists()
    kept = checkpoint.read_file(state.newest_state(tmp_path / "run"))
    assert kept["global_step"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in kept["state_dict"].values())

    monkeypatch.setattr(train.PairMethod, "training_step", step)
    with pytest.raises(TrainingDiverged, match="loss is nan or infinite at step"):
        run(tmp_path / "other", lr=1e30)


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


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same_every_time(tmp_path, no_probe):
    plain = run(tmp_path / "plain", method="simclr")
    compiled = run(tmp_path / "compiled", method="simclr", compile=True)
    for mine, theirs in zip(compiled["log"], plain["log"], strict=True):
        assert float(mine["loss"]) == pytest.approx(float(theirs["loss"]), abs=0.02)
    weights = (checkpoint.read_file(tmp_path / name / "out.pt")["state_dict"] for name in ("plain", "compiled"))
    assert next(weights).keys() == next(weights).keys()
    assert run(tmp_path / "again", method="simclr", compile=True)["digest"] == compiled["digest"]
