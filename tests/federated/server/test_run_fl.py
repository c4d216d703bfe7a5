"""run_fl.py from the outside, on tiny sizes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from federated.server.output.run_folder import read_history
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.conftest import REPOSITORY, assert_refused
from tests.tools import warm

TINY = [
    "--limit-train", "60", "--limit-test", "20", "--image-size", "8", "--validation", "0.1",
    "--clients", "3", "--partition", "iid", "--rounds", "2", "--local-epochs", "1", "--batch-size", "8",
    "--threads", "1", "--arch", "resnet8",
]  # fmt: skip

RunScript = Callable[..., subprocess.CompletedProcess[str]]


def test_from_a_checkpoint_and_again(run_script: RunScript, tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.pt", build_encoder("resnet20", seed=1), "resnet20", 1, {})
    command = ["run_fl.py", *TINY, "--arch", "resnet20", "--init", tmp_path / "encoder.pt"]
    command += ["--output", tmp_path / "run"]
    done = run_script(*command, fresh=True)
    assert done.returncode == 0, done.stderr
    assert "114 of 114 encoder tensors loaded" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert [row["round"] for row in read_history(tmp_path / "run")] == [0, 1, 2]
    again = run_script(*command)
    assert again.returncode == 0
    assert "is finished: 2 rounds" in again.stderr
    assert_refused(run_script(*command, "--lr", "0.5"), "another configuration", "--lr 0.05 (now 0.5)")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--clients", "0"], "--clients must be in 1 .. 1000000"),
        (["--clients", "many"], "--clients"),
        (["--dataset", "imagenet"], "--dataset imagenet is unknown"),
        (["--strategy", "fedfoo"], "--strategy fedfoo is unknown"),
        (["--partition", "random"], "--partition"),
        (["--lerning-rate", "1"], "--lerning-rate"),
        (["--participation", "2"], "--participation must satisfy"),
        (["--prox-mu", "1"], "--prox-mu goes with --strategy fedprox, not with fedavg"),
        (["--strategy", "bulyan", "--clients", "5"], "needs 7 participants in a round, not 5"),
        (["--bn-stats", "local", "--norm", "group"], "--bn-stats goes with --norm batch"),
        (["--min-clients", "11"], "--min-clients 11 is more than the 10 of a round"),
        (["--inject-failures", "1.5"], "--inject-failures must satisfy"),
    ],
)
def test_wrong_flags(run_script: RunScript, tmp_path: Path, flags: list[str], word: str) -> None:
    assert_refused(run_script("run_fl.py", *flags, "--output", tmp_path / "run"), word)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["run_fl", "experiments.compare"])
def test_flags_are_known_before_anything_heavy_is_imported(program: str) -> None:
    code = f"import sys, {program}; {program}.parse(['--rounds', '3']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert not {"torch", "flwr", "sklearn", "scipy", "matplotlib", "cv2", "pyarrow"} & set(done.stdout.split())


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _missing(path: Path) -> None:
    """Write nothing."""


def _truncated(path: Path) -> None:
    save_encoder(path, build_encoder("resnet20"), "resnet20", 1, {})
    path.write_bytes(path.read_bytes()[:5000])


def _other_architecture(path: Path) -> None:
    save_encoder(path, build_encoder("resnet32"), "resnet32", 1, {})


def _text(path: Path) -> None:
    path.write_text("weights")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Code(), protocol=2))


def _pickle_in_a_checkpoint(path: Path) -> None:
    torch.save({"state_dict": _Code()}, path)


@pytest.mark.parametrize(
    ("write", "word"),
    [
        (_missing, "does not exist"),
        (_truncated, "truncated"),
        (_other_architecture, "--arch resnet32"),
        (_text, "encoder.pt"),
        (_pickle, "encoder.pt"),
        (_pickle_in_a_checkpoint, "never executed"),
    ],
)
def test_checkpoints_that_are_none(
    run_script: RunScript, tmp_path: Path, write: Callable[[Path], None], word: str
) -> None:
    write(tmp_path / "encoder.pt")
    before = sorted(tmp_path.iterdir())
    done = run_script("run_fl.py", *TINY, "--init", tmp_path / "encoder.pt", "--output", tmp_path / "run", cwd=tmp_path)
    assert_refused(done, word)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--dataset", "cifar10", "--data-dir", "."], "does not hold cifar10"),
        (["--dataset", "parquet:."], "no train*.parquet"),
        (["--dataset", "folder:."], "must hold the folders train/ and test/"),
        (["--clients", "61"], "--clients 61 is more than the 54 training examples"),
        (["--limit-train", "5000"], "--limit-train 5000 is more than"),
    ],
)
def test_data_that_are_not_there(run_script: RunScript, tmp_path: Path, flags: list[str], word: str) -> None:
    assert_refused(run_script("run_fl.py", *TINY, *flags, "--output", "run", cwd=tmp_path), word)
    assert not any(tmp_path.iterdir())


def test_an_output_that_is_no_run(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert_refused(run_script("run_fl.py", *TINY, "--output", tmp_path), "is not a run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dry_run_writes_nothing(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("partition: shards\nrounds: 7\n")
    done = run_script("run_fl.py", "--config", "run.yaml", *TINY, "--dry-run", "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "rounds: 2\n" in done.stdout  # the flag's
    assert "IID: 3 clients with 18 to 18 examples" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_quiet_and_verbose(run_script: RunScript, tmp_path: Path) -> None:
    quiet = run_script("run_fl.py", *TINY, "--quiet", "--output", tmp_path / "quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert "round 2/2" in (tmp_path / "quiet" / "log.txt").read_text()
    refused = run_script("run_fl.py", *TINY, "--quiet", "--lr", "0.5", "--output", tmp_path / "quiet")
    assert_refused(refused, "another configuration")
    flags = ["--inject-failures", "0.5", "--rounds", "4"]
    verbose = run_script("run_fl.py", *TINY, *flags, "--verbose", "--output", tmp_path / "verbose")
    plain = run_script("run_fl.py", *TINY, *flags, "--output", tmp_path / "plain")
    assert "Traceback" in verbose.stderr  # of the clients' errors, as in the log
    assert "Traceback" not in plain.stderr
    assert_refused(run_script("run_fl.py", "--quiet", "--verbose"), "--quiet and --verbose exclude each other")


def test_a_failing_client_is_exit_code_3(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script("run_fl.py", *TINY, "--lr", "1e30", "--output", tmp_path / "run")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "3 of 3 clients failed in round 1" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_resume(run_script: RunScript, tmp_path: Path, interrupt: signal.Signals) -> None:
    flags = [*TINY, "--rounds", "12", "--output", str(tmp_path / "run")]
    with (tmp_path / "errors").open("w") as file:
        process = warm.Program([REPOSITORY / "run_fl.py", *flags], stderr=file)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        time.sleep(0.02)
    process.send_signal(interrupt)
    code, errors = process.wait(60), (tmp_path / "errors").read_text()
    assert code == 130, errors
    assert "Traceback" not in errors
    done = run_script("run_fl.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "resumed after round" in done.stderr
    assert [row["round"] for row in read_history(tmp_path / "run")] == list(range(13))
