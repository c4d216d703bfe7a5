from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from torch import Tensor

from federated import server_app
from federated.client.training import Client, ClientUpdate
from federated.client_app import client_app
from federated.config.run import RunConfig, from_yaml
from federated.engines.inprocess import InProcessGrid
from federated.server import run as rounds
from federated.server.output.run_folder import RunFolder, read_history
from federated.server.run import Diverged, RunFailed, run
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.federated.conftest import TINY, measured, outcome, run_quietly
from tests.tools import warm

Tiny = Callable[..., RunConfig]


def fail_in_round(monkeypatch: pytest.MonkeyPatch, failing_round: int, clients: set[int], error: BaseException) -> None:
    """Make these clients raise in that round."""
    from federated.algorithms import fedavg

    original = fedavg.train_client

    def train(client: Client, weights: Mapping[str, Tensor]) -> ClientUpdate:
        _, server_round, number = client.key
        if server_round == failing_round and number in clients:
            raise error
        return original(client, weights)

    monkeypatch.setattr(fedavg, "train_client", train)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_leaves_its_folder(tiny: Tiny, pictures: None) -> None:
    result = run(tiny(participation=0.5, eval_every=2, lr_schedule="cosine"), quiet=True)
    assert {path.name for path in result.folder.iterdir()} == {
        "config.yaml", "metrics.jsonl", "partition.npz", "partition.png", "state.pt", "model.pt", "curve.png",
        "init.yaml", "log.txt", "environment.json", ".lock",
    }  # fmt: skip
    for name in ("partition.png", "curve.png"):
        assert (result.folder / name).read_bytes().startswith(b"\x89PNG")
    rows = read_history(result.folder)
    assert result.history == rows
    assert result.resumed_from is None
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert [row["test_accuracy"] is None for row in rows] == [False, True, False, False]
    assert [len(row["participants"]) for row in rows] == [0, 2, 2, 2]
    assert rows[0]["train_loss"] is None
    assert rows[1]["lr"] > rows[3]["lr"] > 0
    for row in rows:
        assert set(row) == {
            "round", "test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_loss", "train_accuracy",
            "lr", "clients", "participants", "failures", "seconds",
        }  # fmt: skip
    assert from_yaml((result.folder / "config.yaml").read_text()).participation == 0.5
    model = torch.load(result.folder / "model.pt", weights_only=True)
    assert (model["arch"], model["width"], model["classes"][9]) == ("resnet8", 1, "9")
    assert model["state_dict"]["encoder.bn1.num_batches_tracked"].dtype == torch.int64
    assert "round 3/3" in (result.folder / "log.txt").read_text()


def test_library_use_leaves_the_process_as_it_was(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    torch.set_num_threads(2)
    run(tiny(threads=1, rounds=1), quiet=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.rand() == expected
    assert capfd.readouterr() == ("", "")


def test_the_same_run_twice(tiny: Tiny, tmp_path: Path) -> None:
    assert run_quietly(tiny(output=tmp_path / "a")) == run_quietly(tiny(output=tmp_path / "b"))


def test_a_finished_run_is_left_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tiny(), quiet=True)
    before = snapshot(first.folder)
    monkeypatch.setattr(rounds.sets, "load", lambda _: pytest.fail("data were loaded again"))
    again = run(tiny(), quiet=True)
    assert again.history == first.history
    assert again.resumed_from == 3
    assert snapshot(first.folder) == before


@pytest.mark.parametrize("failing_round", [1, 3])
def test_resuming_equals_not_stopping(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_round: int
) -> None:
    fields = {"participation": 0.5, "momentum": 0.9, "lr_schedule": "cosine", "augment": "standard"}
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        fail_in_round(patch, failing_round, {0, 1, 2}, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(tiny(**fields), quiet=True)
    folder = tiny().folder
    assert RunFolder(folder).load_state().round == failing_round - 1
    # What a crash while writing leaves: a round too many, half a line, half a file.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": failing_round, "test_accuracy": 0.0}) + '\n{"round": 9, "te')
    (folder / ".state.pt.1.partial").write_bytes(b"half")
    result = run(tiny(**fields), quiet=True)
    assert result.resumed_from == failing_round - 1
    assert outcome(folder) == whole
    assert not (folder / ".state.pt.1.partial").exists()


def test_a_run_that_lost_only_its_model_writes_it_again(tiny: Tiny) -> None:
    folder = run(tiny(), quiet=True).folder
    before = torch.load(folder / "model.pt", weights_only=True)["state_dict"]
    (folder / "model.pt").unlink()
    run(tiny(), quiet=True)
    after = torch.load(folder / "model.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def _run_in_child(config: RunConfig) -> None:
    torch.set_num_threads(1)
    run(config, quiet=True)


def test_resuming_after_sigkill(tiny: Tiny, tmp_path: Path) -> None:
    fields = {"rounds": 8}
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    child = warm.context().Process(target=_run_in_child, args=(tiny(**fields),))
    child.start()
    metrics = tiny().folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL, "the child ended before it was killed"
    result = run(tiny(**fields), quiet=True)
    assert result.resumed_from is not None
    assert 1 <= result.resumed_from < 8
    assert outcome(result.folder) == whole


def test_a_run_without_clients_fails_and_goes_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_in_round(patch, 2, {0, 1, 2}, ValueError("the disk is on fire"))
        with pytest.raises(
            RunFailed, match=r"3 of 3 clients failed in round 2 .* client 0: ValueError: the disk is on fire$"
        ):
            run(tiny(), quiet=True)
    folder = tiny().folder
    assert RunFolder(folder).load_state().round == 1
    assert "Traceback" in (folder / "log.txt").read_text()
    assert not (folder / "model.pt").exists()
    assert run(tiny(), quiet=True).history[-1]["round"] == 3


def test_divergence_fails_the_run(tiny: Tiny) -> None:
    with pytest.raises(Diverged, match="lower --lr"):
        run(tiny(lr=1e30), quiet=True)


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"seed": 1}, {"eval_every": 2}])
def test_another_configuration_is_refused(tiny: Tiny, change: dict[str, Any]) -> None:
    folder = run(tiny(rounds=1), quiet=True).folder
    before = snapshot(folder)
    with pytest.raises(UserError, match="another configuration, with --" + next(iter(change)).replace("_", "-")):
        run(tiny(**{"rounds": 1, **change}), quiet=True)
    assert snapshot(folder) == before


def test_where_it_is_computed_may_change(tiny: Tiny, tmp_path: Path) -> None:
    folder = run(tiny(rounds=1), quiet=True).folder
    moved = folder.rename(tmp_path / "moved")
    assert run(tiny(rounds=1, output=moved, threads=2, device="cpu"), quiet=True).resumed_from == 1


@pytest.mark.parametrize("kind", ["file", "folder", "config"])
def test_an_output_that_is_no_run_is_refused(tiny: Tiny, kind: str) -> None:
    folder = tiny().folder
    if kind == "file":
        folder.write_text("thesis")
    else:
        folder.mkdir()
        (folder / ("config.yaml" if kind == "config" else "thesis.txt")).write_text("thesis")
    with pytest.raises(UserError, match="is not a run"):
        run(tiny(), quiet=True)
    assert folder.read_text() == "thesis" if kind == "file" else len(list(folder.iterdir())) == 1


def test_an_empty_folder_is_as_good_as_none(tiny: Tiny) -> None:
    tiny().folder.mkdir()
    assert run(tiny(rounds=1), quiet=True).history


def test_another_checkpoint_of_the_same_name_is_noticed(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    save_encoder(path, build_encoder("resnet8", seed=1), "resnet8", 1, {})
    config = tiny(init=str(path), rounds=1)
    first = run(config, quiet=True)
    assert "encoder tensors loaded" in (first.folder / "log.txt").read_text()
    assert run(config, quiet=True).resumed_from == 1
    save_encoder(path, build_encoder("resnet8", seed=2), "resnet8", 1, {})
    with pytest.raises(UserError, match="began from other weights"):
        run(config, quiet=True)


def test_other_data_of_the_same_name_are_noticed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_in_round(patch, 2, {0, 1, 2}, ValueError())
        with pytest.raises(RunFailed):
            run(tiny(), quiet=True)
    loaded = rounds.sets.load(tiny())
    loaded.train.images[0, 0, 0, 0] ^= 255
    monkeypatch.setattr(rounds.sets, "load", lambda _: loaded)
    with pytest.raises(UserError, match="began on other data"):
        run(tiny(), quiet=True)


def test_two_processes_do_not_share_a_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_in_round(patch, 2, {0, 1, 2}, ValueError())
        with pytest.raises(RunFailed):
            run(tiny(), quiet=True)
    with (tiny().folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="worked on by another process"):
            run(tiny(), quiet=True)
    assert run(tiny(), quiet=True).resumed_from == 1


@pytest.mark.parametrize("name", ["state.pt", "metrics.jsonl", "partition.npz"])
def test_damage_is_an_error_not_a_restart(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with monkeypatch.context() as patch:
        fail_in_round(patch, 3, {0, 1, 2}, ValueError())
        with pytest.raises(RunFailed):
            run(tiny(), quiet=True)
    path = tiny().folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    before = snapshot(tiny().folder)
    with pytest.raises(UserError, match=name):
        run(tiny(), quiet=True)
    assert snapshot(tiny().folder) == before


def test_reading_a_history(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_history(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1}\n{"rou')
    assert read_history(tmp_path) == [{"round": 0}, {"round": 1}]
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"rou\n{"round": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_history(tmp_path)


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    RunFolder(tmp_path).append({"round": 0, "test_loss": float("nan")})
    assert read_history(tmp_path) == [{"round": 0, "test_loss": None}]


def test_the_server_app_is_the_same_run(tiny: Tiny, tmp_path: Path) -> None:
    expected = run_quietly(tiny(output=tmp_path / "expected"))
    tiny_flags = [f"--{name.replace('_', '-')} {value}" for name, value in TINY.items()]
    flags = " ".join([f"--output {tmp_path / 'flower'}", *tiny_flags])
    context = Context(1, 1, {}, RecordDict(), {"config": "", "flags": flags})
    server_app.server_app(InProcessGrid(client_app, 3), context)
    assert outcome(tmp_path / "flower") == expected


def test_a_grid_with_other_nodes_is_refused(tiny: Tiny) -> None:
    with pytest.raises(RunFailed, match="not one for each client"):
        run(tiny(), quiet=True, grid=InProcessGrid(client_app, 4))


def test_one_of_a_kind_is_announced_in_the_singular(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(clients=1, rounds=1)
    run(config)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "clients 1 client with 54 examples of 10 classes"
    assert lines[3].startswith("run     fedavg, 1 round, inprocess on ")
    run(config)
    assert "is finished: 1 round, test accuracy" in capsys.readouterr().err


def test_progress_on_the_terminal(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny(eval_every=2))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("data    digits: 54 training, 6 validation, 20 test examples, 10 classes, 8 px")
    assert lines[1].startswith("clients 3 clients with 18 to 18 examples")
    assert lines[2].startswith("init    random weights (resnet8, width 1")
    assert lines[3].startswith("run     fedavg, 3 rounds, inprocess on ")
    assert [line.split(":")[0] for line in lines if line.startswith("round")] == ["round 0/3", "round 2/3", "round 3/3"]
    assert lines[-1].startswith("finished: test accuracy")
    run(tiny(eval_every=2))
    (line,) = capsys.readouterr().err.splitlines()
    assert "is finished: 3 rounds" in line


def test_measured_rows_leave_out_time_only() -> None:
    assert measured([{"round": 1, "seconds": 2.0}]) == [{"round": 1}]
