"""Runs that are interrupted, killed or given again, and what is in their folders."""

import csv
import dataclasses
import random
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from fps_pretrain.common import yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig, read_yaml, write_yaml
from fps_pretrain.training import resume as state
from fps_pretrain.training import run as train
from fps_pretrain.training import run_folder, trainer
from tests.fps_pretrain.training.runs import TINY, run
from tests.tools import random_kills


def opened(config, native):
    with ExitStack() as held:
        return run_folder.open_run(config, native, held, {})


def run_until(step, signum, monkeypatch, folder, **options):
    """A run that gets a signal in a step, counted from 0, and stops after it."""
    train_on = train.PairMethod.training_step

    def interrupt(self, batch, batch_idx):
        if self.global_step == step:
            signal.raise_signal(signum)
        return train_on(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(train.PairMethod, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(folder, **options)


def test_interrupted_and_resumed_equals_uninterrupted(baseline, tmp_path, no_probe, monkeypatch):
    """Ctrl-C after the second of six steps, in mid-epoch; the same command ends with the same weights."""
    run_until(1, signal.SIGINT, monkeypatch, tmp_path)
    assert (tmp_path / "run" / "state.ckpt").is_file()
    assert not (tmp_path / "out.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(tmp_path)["digest"] == baseline["digest"]
    # finished: once more changes nothing
    assert run(tmp_path)["digest"] == baseline["digest"]
    assert not list(tmp_path.glob("out.*.pt"))


@pytest.mark.parametrize("where", ["before the first step", "twice"])
def test_an_interrupt_that_lightning_meets_is_one_all_the_same(where, tmp_path, no_probe, monkeypatch):
    """Lightning exits with code 1 and without a word where a KeyboardInterrupt comes through its loop."""

    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    hook = "on_fit_start" if where == "before the first step" else "training_step"
    monkeypatch.setattr(train.PairMethod, hook, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_job_that_slurm_starts_again_goes_on_although_it_was_told_to_start_over(
    baseline, tmp_path, no_probe, monkeypatch
):
    run_until(3, signal.SIGTERM, monkeypatch, tmp_path, resume=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = run(tmp_path, resume=False)
    assert again["digest"] == baseline["digest"]
    assert len(again["log"]) < 6
    assert not list(tmp_path.glob("run.*"))


def test_a_saved_configuration_that_unfolds_without_end_is_shown_short(tmp_path):
    levels = ["  - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "config.yaml").write_text("objects:\n" + "\n".join(levels) + "\n")
    saved = yaml_file.read(tmp_path / "config.yaml")
    (said,) = PretrainConfig(seed=0).differences(saved)
    assert len(said) < 500


def test_a_run_folder_of_another_run_is_refused(tmp_path, no_probe):
    run(tmp_path)
    with pytest.raises(UserError, match="--seed"):
        run(tmp_path, seed=5)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(UserError, match="not a pre-training run"):
        run(tmp_path, run_dir=tmp_path / "notes")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_run_records_the_learning_rate_and_the_numbers_it_trains_with(baseline):
    recorded = baseline["recorded"]
    assert (recorded["lr"], recorded["objects"], recorded["classes"]) == (0.05 * 8 / 256, [2, 2], 100_000)
    assert recorded["method_options"] == ["centre=1"]  # of SimSiam with the preset quick
    assert float(baseline["log"][0]["lr"]) == pytest.approx(recorded["lr"])


def test_a_run_of_an_earlier_revision_goes_on_as_it_began(baseline, tmp_path, no_probe, monkeypatch):
    run_until(3, signal.SIGINT, monkeypatch, tmp_path)
    saved = read_yaml(tmp_path / "run" / "config.yaml")
    assert saved["lr"] == baseline["recorded"]["lr"]
    yaml_file.write(tmp_path / "run" / "config.yaml", saved | {"lr": None, "objects": None, "classes": None})
    with pytest.raises(UserError, match=r"--lr 0\.0015625 "):
        run(tmp_path, lr=0.5)
    assert run(tmp_path)["digest"] == baseline["digest"]
    assert read_yaml(tmp_path / "run" / "config.yaml") == saved


def test_the_precision_is_resolved_once_and_kept_on_another_machine(tmp_path, capsys):
    config = PretrainConfig(output=tmp_path / "out.pt", run_dir=tmp_path / "run", **TINY | {"precision": "auto"})
    config = config.resolve(has_gpu=False)
    begun, _ = opened(config, native="bf16")
    assert begun.precision == "bf16"
    assert read_yaml(tmp_path / "run" / "config.yaml")["precision"] == "bf16"
    assert not capsys.readouterr().err
    resumed, _ = opened(config, native="32")
    assert resumed == begun
    assert capsys.readouterr().err.count("goes on in bfloat16") == 1
    with pytest.raises(UserError, match="--precision"):
        opened(dataclasses.replace(config, precision="32"), native="32")
    # a folder of revision 0.1 holds what was asked for, not what was taken
    write_yaml(tmp_path / "run" / "config.yaml", config)
    assert opened(config, native="32")[0].precision == "32"


def test_a_run_stores_its_precision(tmp_path, no_probe, monkeypatch):
    monkeypatch.setattr(train, "native_precision", lambda gpu: "bf16")
    assert run(tmp_path, precision="auto")["recorded"]["precision"] == "bf16"
    monkeypatch.setattr(train, "native_precision", lambda gpu: "32")
    (tmp_path / "out.pt").unlink()  # made again from the state
    assert run(tmp_path, precision="auto")["recorded"]["precision"] == "bf16"


@pytest.mark.parametrize(("method", "ema"), [("simsiam", 0), ("moco", 0), ("simsiam", 0.5)])
def test_a_state_of_any_step_resumes_exactly(method, ema, baseline, moco_baseline, tmp_path, no_probe, monkeypatch):
    """Also one saved at the end of an epoch, before the learning rate has changed and the encoder is saved."""
    options = {"method": method, "save_every": 1, "ema": ema}
    if method == "moco":
        options["method_options"] = ("queue=16",)
    save = state.StateIO.save_checkpoint

    def save_and_keep(self, content, path, storage_options=None):
        save(self, content, path)
        shutil.copy(self.folder / state.STATE, tmp_path / f"step{content['global_step']}")

    with monkeypatch.context() as patch:
        patch.setattr(state.StateIO, "save_checkpoint", save_and_keep)
        whole = run(tmp_path / "whole", state_every=0.0, **options)
    assert (whole["digest"] == {"simsiam": baseline, "moco": moco_baseline}[method]["digest"]) == (not ema)
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


@pytest.mark.slow
@pytest.mark.promise
def test_killed_at_random_moments_a_run_ends_with_the_same_weights(tmp_path):
    """MoCo, which has the most to remember: momentum encoder, queue and its place in it."""
    rng = random.Random(0)
    whole = random_kills.configuration(tmp_path / "whole", "moco")
    killed = random_kills.configuration(tmp_path / "killed", "moco")
    seconds = random_kills.run_alone(whole)
    random_kills.kill_until_done(killed, 5, rng, 0.7 * seconds)
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
    run_until(3, signal.SIGINT, monkeypatch, tmp_path, state_every=0.0)
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


def test_the_newest_of_two_whole_states_is_taken(tmp_path):
    kept = state.StateIO(tmp_path)
    for step in (1, 2):
        kept.save_checkpoint({"global_step": step}, None)
    assert kept.load_checkpoint(state.newest_state(tmp_path))["global_step"] == 2
    (tmp_path / state.STATE).write_bytes(b"torn")
    assert kept.load_checkpoint(state.newest_state(tmp_path))["global_step"] == 1


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


def without(*names):
    return lambda content: [content.pop(name) for name in names]


NO_STATES = {
    "another method": lambda content: content["state_dict"].pop(next(iter(content["state_dict"]))),
    "misshapen": lambda content: content["state_dict"].update({next(iter(content["state_dict"])): torch.ones(2)}),
    "not finite": lambda content: content["state_dict"].update(
        {name: t * float("nan") for name, t in content["state_dict"].items() if t.is_floating_point()}
    ),
    "no weights": lambda content: content.update(state_dict={}),
    "no optimiser": without("optimizer_states"),
    "empty optimiser": lambda content: content.update(optimizer_states=[]),
    "no state": lambda content: (content.clear(), content.update(a=1)),
    "step of no run": lambda content: content.update(global_step=-1),
    "step after the end": lambda content: content.update(global_step=7),
    "no loops": without("loops"),
    "empty loops": lambda content: content.update(loops={}),
}


def test_a_file_that_is_no_state_of_the_run_is_refused_before_anything_is_written(tmp_path, no_probe):
    run(tmp_path)
    (tmp_path / "out.pt").unlink()
    path = tmp_path / "run" / state.STATE
    whole = path.read_bytes()
    for name, change in NO_STATES.items():
        path.write_bytes(whole)
        content = torch.load(path, weights_only=True)
        content.pop("checksum")
        change(content)
        torch.save(content, path)
        (tmp_path / "run" / "config.yaml").touch()
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
        with pytest.raises(UserError, match="is not a state of this run") as error:
            run(tmp_path)
        assert "\n" not in str(error.value), name
        after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
        assert after == before, name
    path.write_bytes(whole)
    content = torch.load(path, weights_only=True)
    next(iter(content["state_dict"].values())).add_(1e-6)
    torch.save(content, path)
    assert state.newest_state(tmp_path / "run") != path, "its checksum is another"


def test_a_closed_terminal_asks_once_and_never_under_nohup(tmp_path):
    keep = state.KeepState(tmp_path, interval=60)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        keep.on_train_start(None, None)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # once from the shell, once from the kernel
        assert keep._asked == signal.SIGHUP
        keep.teardown(None, None, "fit")
        assert signal.signal(signal.SIGHUP, signal.SIG_IGN) == signal.SIG_DFL
        keep.on_train_start(None, None)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        keep.teardown(None, None, "fit")
    finally:
        signal.signal(signal.SIGHUP, before)
