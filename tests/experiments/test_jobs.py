"""Runs of a comparison side by side: the same runs, one screen, and a crash that stops no other."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from experiments import compare
from experiments.comparison import running
from experiments.comparison.config import CompareConfig
from experiments.comparison.plan import plan
from experiments.comparison.running import side_by_side
from federated.client.failures import injected
from federated.config.run import RunConfig
from federated.data import sets
from federated.server import run as rounds
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked
from tests.experiments.runs import table
from tests.tools import warm

TINY = RunConfig(
    arch="resnet8", image_size=16, limit_train=100, limit_test=50, clients=2, partition="iid", rounds=1, threads=1
)
SIZES = {
    "arch": "resnet8",
    "rounds": 1,
    "limit-train": 100,
    "limit-test": 50,
    "image-size": 16,
    "clients": 2,
    "threads": 1,
}
FLAGS = [*(part for name, value in SIZES.items() for part in (f"--{name}", str(value))), "--partition", "iid"]


def without_times(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize(("personal", "last"), [("none", "evaluation.json"), ("head", "model.pt")])
def test_a_run_is_finished_once_its_last_file_is_there(tmp_path, personal, last):
    """With personal heads there is no evaluation.json, and finished runs are not started again."""
    run = replace(TINY, personal=personal, output=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1}\n')
    assert not running.is_finished(run)
    (tmp_path / last).touch()
    assert running.is_finished(run)
    assert not running.is_finished(replace(run, rounds=2)), "it is to go on"
    assert side_by_side([run], jobs=1) == {}


def test_side_by_side(tmp_path, capsys, monkeypatch):
    """A run that fails stops no other, and the others are what they are one by one."""
    processes = SimpleNamespace(**vars(subprocess) | {"Popen": warm.Program})
    monkeypatch.setattr(running, "subprocess", processes)
    run = replace(TINY, inject_failures=0.4, min_clients=2)
    fails = {seed: any(injected(replace(run, seed=seed), 1, client) for client in (0, 1)) for seed in range(30)}
    bad = next(seed for seed, failed in fails.items() if failed)
    good = [seed for seed, failed in fails.items() if not failed][:2]
    flags = [*FLAGS, "--inject-failures", "0.4", "--min-clients", "2", "--inits", "random"]
    flags += ["--seeds", str(bad), *map(str, good), "--jobs", "2"]
    assert compare.main(compare.parse([*flags, "--output", str(tmp_path / "c")])) == 3
    said = capsys.readouterr().err
    assert "plan     3 runs, 2 at a time: about" in said
    assert said.index("plan  ") < said.index("began  ")
    last = said.splitlines()[-1]
    assert last.startswith(f"experiments.compare: failed in {tmp_path}/c/runs/random-s{bad}: ")
    assert "of 2 clients failed in round 1" in last
    assert table(tmp_path / "c" / "summary.csv")[0]["seeds"] == "2"

    together, alone = tmp_path / "c" / "runs" / f"random-s{good[0]}", tmp_path / "alone"
    rounds.run(replace(run, seed=good[0], output=alone), quiet=True)
    assert without_times(together) == without_times(alone)
    assert {"revision", "torch", "processor"} <= json.loads((together / "environment.json").read_text()).keys()


@pytest.mark.parametrize(("shared", "workers"), [(True, "0"), (False, "auto")])
def test_runs_that_share_cores_have_no_workers(tmp_path, shared, workers):
    configs = []

    def start(config, errors, threads, slot):
        configs.append(config.read_text())
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    launcher = SimpleNamespace(scratch=None, shared=shared, start=start)
    assert side_by_side([replace(TINY, output=tmp_path / "r")], 2, launcher) == {}
    assert f"\nworkers: {workers}\n" in configs[0]


def test_runs_begin_in_order_in_the_place_that_is_free_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "POLL_SECONDS", 0)
    runs = [replace(TINY, output=tmp_path / str(number)) for number in range(4)]
    begun, looks = [], iter(range(100))

    def start(config, errors, threads, slot):
        begun.append((config.stem, slot))
        errors.write_text("first line\nno disk\n")
        code = 3 if config.stem == "0" else 0
        lasts = config.stem == "1"  # longer than all others
        return SimpleNamespace(poll=lambda: None if lasts and next(looks, 100) < 10 else code, returncode=code)

    failures = side_by_side(runs, 2, SimpleNamespace(scratch=None, shared=True, start=start))
    assert begun == [("0", 1), ("1", 2), ("2", 1), ("3", 1)]
    assert failures == {runs[0].folder: running.Failure("no disk (exit code 3)")}


@pytest.mark.parametrize(("set_by_the_user", "threads"), [(None, "3"), ("2", "2")])
def test_a_run_beside_others_has_its_threads_and_a_session_of_its_own(tmp_path, monkeypatch, set_by_the_user, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_by_the_user:
        monkeypatch.setenv("OMP_NUM_THREADS", set_by_the_user)
    given = {}
    monkeypatch.setattr(running.subprocess, "Popen", lambda command, **options: given.update(options))
    running.LocalLauncher().start(tmp_path / "run.yaml", tmp_path / "errors.txt", 3, 1)
    assert given["env"]["OMP_NUM_THREADS"] == threads
    assert given["start_new_session"], "Ctrl-C reaches the comparison, which ends its runs"


def test_runs_take_turns_on_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = []

    class Process:
        returncode = 0

        def __init__(self, command, **options):
            seen.append(options["env"]["CUDA_VISIBLE_DEVICES"])
            self.end = time.monotonic() + 1

        def poll(self):
            return 0 if time.monotonic() > self.end else None

    monkeypatch.setattr(running.subprocess, "Popen", Process)
    assert side_by_side([replace(TINY, output=tmp_path / str(n)) for n in range(4)], 4) == {}
    assert sorted(seen) == ["0", "0", "1", "1"]


def test_a_finished_run_starts_no_process(tmp_path, monkeypatch):
    folder = tmp_path / "r"
    done = replace(TINY, output=folder)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}\n" * (TINY.rounds + 1))
    started = []

    def start(*call):
        started.append(call)
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(running.LocalLauncher, "start", start)
    side_by_side([done], 2)
    assert len(started) == 1  # not evaluated yet
    (folder / "evaluation.json").write_text("{}")
    side_by_side([done], 2)
    assert len(started) == 1


def test_a_finished_comparison_needs_no_data(tmp_path, monkeypatch):
    flags = [*FLAGS, "--rounds", "1", "--inits", "random", "--seeds", "0", "--output", str(tmp_path / "c")]
    assert compare.main(compare.parse(flags)) == 0

    def gone(config):
        raise UserError("there are no data")

    monkeypatch.setattr(sets, "load", gone)
    assert compare.main(compare.parse([*flags, "--jobs", "2"])) == 0


def test_a_process_that_is_killed_is_reported(tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    popen = running.subprocess.Popen

    def start(command, **options):
        return popen([sys.executable, str(tmp_path / "fake.py")], **options)

    monkeypatch.setattr(running.subprocess, "Popen", start)
    folder = tmp_path / "r"
    assert side_by_side([replace(TINY, output=folder)], 2) == {folder: running.Failure("killed by SIGKILL")}


def test_an_interruption_reaches_the_processes(tmp_path, monkeypatch):
    # As in a shell's background job, SIGINT is ignored.
    (tmp_path / "fake.py").write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)\n"
    )
    popen = running.subprocess.Popen

    def start(command, **options):
        return popen([sys.executable, str(tmp_path / "fake.py"), f"{command[-1]}.begun"], **options)

    stopped = []

    def interrupt(seconds):
        time.sleep(1)
        raise KeyboardInterrupt

    stop = running._stop
    monkeypatch.setattr(running.subprocess, "Popen", start)
    clock = {"sleep": staticmethod(interrupt), "monotonic": staticmethod(time.monotonic)}
    monkeypatch.setattr(running, "time", type("Time", (), clock))
    monkeypatch.setattr(running, "_stop", lambda jobs: [stop(jobs), stopped.extend(job.process.poll() for job in jobs)])
    with pytest.raises(KeyboardInterrupt):
        side_by_side([replace(TINY, output=tmp_path / str(n)) for n in range(2)], 2)
    assert stopped == [0, 0]


def test_a_run_ends_with_its_comparison(tmp_path):
    flags = [*FLAGS, "--rounds", "1000", "--inits", "random", "--seeds", "0", "--jobs", "2"]
    comparison = warm.Program(["-m", "experiments.compare", *flags, "--output", tmp_path / "c"])
    folder = tmp_path / "c" / "runs" / "random-s0"
    try:
        wait_until(lambda: lines_of(folder) > 1)
    finally:
        comparison.kill()
    wait_until(lambda: is_free(folder))
    assert lines_of(folder) < 1000


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def lines_of(folder):
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def is_free(folder):
    try:
        with locked(folder):
            return True
    except UserError:
        return False


def test_a_second_interruption_leaves_no_process_behind(tmp_path, monkeypatch):
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        job = SimpleNamespace(process=process, bar=SimpleNamespace(close=lambda: None))
        wait = process.wait

        def interrupted(timeout=None):
            if timeout is not None:
                raise KeyboardInterrupt
            return wait()

        monkeypatch.setattr(process, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            running._stop([job])
        assert process.poll() == -signal.SIGKILL


def test_the_plan_counts_what_is_left(tmp_path):
    runs = [replace(TINY, rounds=4, seed=seed, output=tmp_path / str(seed)) for seed in range(2)]
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "metrics.jsonl").write_text("{}\n" * 3)
    lines = list(plan(runs, 1))
    assert "4 rounds, 2 done, about" in lines[0]
    assert "4 rounds, about" in lines[1]
    (tmp_path / "0" / "metrics.jsonl").write_text("{}\n" * 5)
    assert next(plan(runs, 1)).endswith("finished")


def test_rates_may_be_tried_in_fewer_rounds():
    config = CompareConfig(inits=("random",), seeds=(3,), lrs=(0.1, 0.2), tuning_rounds=2, run=RunConfig(rounds=8))
    assert [(run.rounds, run.output.name) for run in config.candidates()] == [
        (2, "random-lr0.1-r2-s3"), (2, "random-lr0.2-r2-s3")
    ]  # fmt: skip
    (run,) = config.runs({"random": 0.2})
    assert (run.rounds, run.lr, run.output.name) == (8, 0.2, "random-lr0.2-s3")
    for changes in ({"tuning_rounds": 9}, {"tuning_rounds": 0}, {"jobs": 0}):
        with pytest.raises(UserError, match="must"):
            CompareConfig(run=RunConfig(rounds=8), **changes)


def test_a_centralised_arm_is_tuned_by_itself():
    config = CompareConfig(inits=("random",), seeds=(0,), lrs=(0.1, 0.2), centralised=True)
    assert [(run.clients, run.lr) for run in config.candidates()] == [(10, 0.1), (10, 0.2), (1, 0.1), (1, 0.2)]
    runs = list(config.runs({"random": 0.1, "centralised random": 0.2}))
    assert [(run.clients, run.lr) for run in runs] == [(10, 0.1), (1, 0.2)]
