"""The processes of a run agree on how it begins: all of them go on from one state, or end together."""

import json
import os
import signal
import time

import pytest
import torch
from torch import multiprocessing

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models import checkpoint, hardware
from fps_pretrain.training import launch
from fps_pretrain.training.devices import default_workers, device_of_this_process
from fps_pretrain.training.launch import Processes, Start
from tests.fps_pretrain.training.processes import OPTIONS, free_port, start, torchrun, wait

PAIR = PretrainConfig(devices=2, batch_size=8)


def decide_to_resume():
    return Start("state.previous.ckpt", "bf16")


def refuse():
    raise UserError("the folder holds another run")


def fail():
    raise RuntimeError("a bug")


def interrupt():
    raise KeyboardInterrupt


def nobody_asks():
    raise AssertionError("only rank 0 decides")


CASES = [
    (decide_to_resume, Start("state.previous.ckpt", "bf16"), Start("state.previous.ckpt", "bf16")),
    (refuse, "UserError", Start(exit_code=2)),
    (fail, "RuntimeError", Start(exit_code=1)),
    (interrupt, "KeyboardInterrupt", Start(exit_code=130)),
]
"""What rank 0 does, and how that ends for rank 0 and for the others."""


def _agree(rank, ports, results):
    outcomes = []
    for (decide, *_), port in zip(CASES, ports, strict=True):
        os.environ.update(torchrun(rank, port))
        processes = Processes(PAIR, gpu=False)
        assert processes.rank == rank
        try:
            outcomes.append(processes.agree(nobody_asks if rank else decide))
        except BaseException as error:
            outcomes.append(type(error).__name__)
        processes.leave()
    results[rank] = outcomes


def test_every_process_learns_what_rank_0_has_decided():
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        ports = [free_port() for _ in CASES]
        multiprocessing.start_processes(_agree, args=(ports, results), nprocs=2, start_method="forkserver")
        assert results[0] == [first for _, first, _ in CASES]
        assert results[1] == [other for _, _, other in CASES]


def test_processes_that_lightning_starts_are_told_by_their_parent(monkeypatch):
    parent = Processes(PAIR, gpu=False)
    assert (parent.rank, parent.started_together) == (0, False)
    start = parent.agree(decide_to_resume)
    with parent.telling_children(start):
        with monkeypatch.context() as patch:
            patch.setenv("LOCAL_RANK", "1")
            child = Processes(PAIR, gpu=False)
            assert child.rank == 1
            assert child.agree(nobody_asks) == start
        # a rank 0 that finds the variable all the same, such as that of a run within a run, decides for itself
        assert Processes(PAIR, gpu=False).agree(lambda: Start("other")) == Start("other")
    assert launch._START not in os.environ


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"--nodes 2: start .* srun or torchrun"):
        Processes(PretrainConfig(devices=1, nodes=2, batch_size=8), gpu=False)
    for name, value in torchrun(0, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--devices 4"):
        Processes(PretrainConfig(devices=4, batch_size=8), gpu=False)


def test_processes_of_several_machines_are_numbered_one_machine_after_another(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    config = PretrainConfig(devices=3, nodes=2, batch_size=12)
    ranks = []
    for node in (1, 0):
        for local in (2, 1, 0):  # 0 comes last: Lightning remembers the rank of its process
            monkeypatch.setenv("NODE_RANK", str(node))
            monkeypatch.setenv("LOCAL_RANK", str(local))
            ranks.append(Processes(config, gpu=False).rank)
    assert ranks == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("variables", "number"),
    [({}, 0), ({"LOCAL_RANK": "3"}, 3), ({"SLURM_LOCALID": "2"}, 2), ({"LOCAL_RANK": "1", "SLURM_LOCALID": "2"}, 1)],
)
def test_each_process_of_a_machine_has_a_gpu_of_its_own(variables, number, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert device_of_this_process(gpu=True) == torch.device("cuda", number)
    assert device_of_this_process(gpu=False) == torch.device("cpu")


@pytest.mark.parametrize(("cores", "devices", "threads"), [(16, 1, 8), (6, 1, 5), (16, 4, 3), (2, 1, 1), (1, 1, 1)])
def test_threads_that_make_pairs_leave_each_gpu_a_core(cores, devices, threads, monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert default_workers(gpu=True, devices=devices) == threads
    assert default_workers(gpu=False, devices=devices) == 1


def start_two(folder, *options, delays=(0.0, 0.0)):
    """Two processes as torchrun starts them, rank 1 first if rank 0 is delayed."""
    port = free_port()
    options = [*OPTIONS, "--log-every", 1000, "--epochs", 16, "--devices", 2, *options]
    tasks = {}
    for rank in sorted((0, 1), key=lambda rank: delays[rank]):
        time.sleep(delays[rank])
        tasks[rank] = start(folder, options, torchrun(rank, port), folder / f"rank{rank}.log")
    return [tasks[0], tasks[1]]


@pytest.mark.promise
@pytest.mark.slow
def test_a_finished_or_refused_run_ends_in_all_processes_at_once(tmp_path):
    assert wait(start_two(tmp_path, "--epochs", 1), 300) == [0, 0], (tmp_path / "rank0.log").read_text()
    assert wait(start_two(tmp_path, "--epochs", 1), 150) == [0, 0]
    assert "finished" in (tmp_path / "rank0.log").read_text()
    assert (tmp_path / "rank1.log").read_text() == ""
    assert wait(start_two(tmp_path, "--epochs", 1, "--seed", 5), 150) == [2, 2]
    assert "--seed" in (tmp_path / "rank0.log").read_text()
    assert (tmp_path / "rank1.log").read_text() == ""


@pytest.mark.promise
@pytest.mark.slow
def test_what_an_earlier_launch_has_left_misleads_nobody(tmp_path):
    """Interrupted once, all processes go on from the same state, whoever is first and whatever is in the folder."""
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    assert wait(start_two(tmp_path / "whole"), 300) == [0, 0]
    tasks = start_two(tmp_path / "resumed", "--state-every", 0)
    end = time.monotonic() + 120
    while not (tmp_path / "resumed" / "run" / "state.previous.ckpt").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    for task in tasks:
        task.send_signal(signal.SIGTERM)
    assert wait(tasks, 120) == [130, 130]
    # what revision 0.1 wrote at the start of every launch: that this one starts afresh
    stale = {"key": "TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=0", "state": None}
    (tmp_path / "resumed" / "run" / ".launch.json").write_text(json.dumps(stale))
    assert wait(start_two(tmp_path / "resumed", delays=(5.0, 0.0)), 300) == [0, 0]
    assert "resuming" in (tmp_path / "resumed" / "rank0.log").read_text()
    digests = [checkpoint.read_file(tmp_path / n / "out.pt")["provenance"]["digest"] for n in ("whole", "resumed")]
    assert digests[0] == digests[1]
