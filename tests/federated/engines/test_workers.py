"""Worker processes give the weights of one process, and one that dies or hangs costs one client's round."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from federated.config.run import RunConfig
from federated.engines import pool, workers
from federated.server.run import RunFailed, run
from fps_pretrain.common.errors import UserError
from tests.conftest import REPOSITORY
from tests.federated.conftest import TINY, run_quietly
from tests.tools import warm

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_workers_give_the_weights_of_one_process(tiny: Tiny, tmp_path: Path, strategy: str) -> None:
    fields: dict[str, Any] = {"clients": 5, "participation": 0.6, "strategy": strategy, "inject_failures": 0.2}
    alone = run_quietly(tiny(output=tmp_path / "alone", **fields))
    folder = tmp_path / "workers"
    assert run_quietly(tiny(output=folder, workers=2, **fields)) == alone
    assert {path.name for path in folder.glob(".*")} == {".lock"}, "the workers' files are left"


def test_a_script_may_start_workers_at_its_top_level(tmp_path: Path) -> None:
    """multiprocessing would run the script again in each worker."""
    script = tmp_path / "script.py"
    fields = {**TINY, "workers": 1, "rounds": 1}
    script.write_text(
        "from pathlib import Path\nfrom federated.config.run import RunConfig\nfrom federated.server.run import run\n"
        f"print('began')\nrun(RunConfig(output=Path('run'), **{fields!r}), quiet=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "output").open("w+") as output, (tmp_path / "errors").open("w+") as errors:
        program = warm.Program([script.name], stdout=output, stderr=errors, cwd=tmp_path, env=environment)
        assert (program.wait(300), output.read()) == (0, "began\n"), errors.read()
    assert (tmp_path / "run" / "model.pt").exists()


def test_a_worker_that_dies_costs_one_clients_round(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    original = workers.WorkerGrid._dispatch

    def dispatch(self: workers.WorkerGrid) -> None:
        original(self)
        for worker in self._workers:
            if worker.message is not None and worker.message.metadata.dst_node_id == 3 and not killed:
                killed.append(worker.process.pid)
                os.kill(worker.process.pid or 0, signal.SIGKILL)

    monkeypatch.setattr(workers.WorkerGrid, "_dispatch", dispatch)
    rows = run(tiny(workers=2), quiet=True).history
    assert [row["failures"] for row in rows] == [
        [], [{"client": 1, "reason": "WorkerDied: its process ended with exit code -9"}], [], [],
    ]  # fmt: skip


def test_a_worker_that_hangs_is_replaced(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    original = workers.WorkerGrid._dispatch

    def dispatch(self: workers.WorkerGrid) -> None:
        original(self)
        for worker in self._workers:
            if worker.message is not None and worker.message.metadata.dst_node_id == 2 and not stopped:
                stopped.append(worker.process.pid)
                os.kill(worker.process.pid or 0, signal.SIGSTOP)

    monkeypatch.setattr(pool, "HANG_GRACE", 1.0)
    monkeypatch.setattr(workers.WorkerGrid, "_dispatch", dispatch)
    rows = run(tiny(workers=1, client_timeout=5.0, rounds=1), quiet=True).history
    assert rows[1]["failures"] == [{"client": 0, "reason": "ClientTimeout: hung for 6 s and was ended"}]


def test_an_idle_worker_that_died_is_noticed(tiny: Tiny, tmp_path: Path) -> None:
    folder = run(tiny(rounds=1), quiet=True).folder
    from federated.open_workspace import message_config

    config = message_config(tiny(rounds=1), folder / "partition.npz")
    with workers.WorkerGrid(3, 1, config, None) as grid:
        while not grid._workers[0].ready:
            grid.pull_messages([])
        process = grid._workers[0].process
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        broken = Message(RecordDict(), 2, "train")  # no weights: the ClientApp answers with an error of its own
        (reply,) = grid.send_and_receive([broken])
        assert reply.has_error()
        assert "KeyError" in str(reply.error.reason)
        assert grid._workers[0].process.pid != process.pid
        pids = [worker.process.pid for worker in grid._workers]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def _leave(*arguments: object) -> None:
    sys.exit(7)


def kill_in_round(monkeypatch: pytest.MonkeyPatch, server_round: int, node: int) -> None:
    """Kill the worker that has got this node's message of that round, once."""
    killed: list[workers.ProcessWorker] = []
    original = workers.WorkerGrid._dispatch

    def dispatch(self: workers.WorkerGrid) -> None:
        original(self)
        for worker in self._workers:
            about = worker.message.metadata if worker.message else None
            if about and (about.group_id, about.dst_node_id) == (str(server_round), node) and not killed:
                killed.append(worker)
                os.kill(worker.process.pid or 0, signal.SIGKILL)

    monkeypatch.setattr(workers.WorkerGrid, "_dispatch", dispatch)


def fail_to_start(monkeypatch: pytest.MonkeyPatch, first: int, failing: int) -> None:
    """After ``first`` workers have started as they should, the next ``failing`` end before they are ready."""
    monkeypatch.setattr(pool, "START_PAUSE", 0.01)
    started = 0
    original, work = workers.WorkerGrid._new_worker, workers._work

    def new_worker(self: workers.WorkerGrid) -> workers.ProcessWorker:
        nonlocal started
        started += 1
        monkeypatch.setattr(workers, "_work", _leave if first < started <= first + failing else work)
        return original(self)

    monkeypatch.setattr(workers.WorkerGrid, "_new_worker", new_worker)


def wait_in_round_for_replacements(monkeypatch: pytest.MonkeyPatch, server_round: int) -> None:
    """Hand out no message of that round before the dead worker's replacement has started or was given up."""
    original = workers.WorkerGrid._dispatch

    def dispatch(self: workers.WorkerGrid) -> None:
        waiting = len(self._restarts) + sum(not worker.ready for worker in self._workers)
        if not (waiting and any(m.metadata.group_id == str(server_round) for m in self._pending.values())):
            original(self)

    monkeypatch.setattr(workers.WorkerGrid, "_dispatch", dispatch)


def test_a_replacement_that_does_not_start_is_tried_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in_round(monkeypatch, 1, 3)
    fail_to_start(monkeypatch, first=1, failing=2)
    rows = run(tiny(workers=1), quiet=True).history
    assert [len(row["failures"]) for row in rows] == [0, 1, 0, 0]


def test_the_others_go_on_without_a_worker_that_does_not_start(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in_round(monkeypatch, 1, 3)
    fail_to_start(monkeypatch, first=2, failing=1000)
    wait_in_round_for_replacements(monkeypatch, 3)
    result = run(tiny(workers=2, rounds=4), quiet=True)
    assert [len(row["failures"]) for row in result.history] == [0, 1, 0, 0, 0]
    log = (result.folder / "log.txt").read_text()
    line = "a worker could not be started again, its process ended with exit code 7; going on with 1 of 2"
    assert log.count(line) == 1


def test_a_run_whose_last_worker_is_gone_fails_and_goes_on_later(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_in_round(patch, 2, 3)
        fail_to_start(patch, first=1, failing=1000)
        with pytest.raises(RunFailed, match=r"no worker is left: .*its process ended with exit code 7"):
            run(tiny(workers=1), quiet=True)
    assert run(tiny(workers=1), quiet=True).resumed_from == 1


def test_workers_that_cannot_start_at_first_are_the_users_to_mend(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_start(monkeypatch, first=0, failing=2)
    with pytest.raises(UserError, match=r"--workers 2: one cannot start, .* exit code 7; take fewer"):
        run(tiny(workers=2), quiet=True)
    fail_to_start(monkeypatch, first=0, failing=0)

    def no_process(self: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(workers.ForkServerProcess, "start", no_process)
    with pytest.raises(UserError, match=r"--workers 2: one cannot start, .*temporarily unavailable.*; take fewer"):
        run(tiny(workers=2), quiet=True)


def test_a_worker_that_is_never_ready_is_one_that_cannot_start(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START_LIMIT", 0.0)
    monkeypatch.setattr(pool, "POLL", 0.0)
    with pytest.raises(UserError, match=r"--workers 1: one cannot start, it was not ready in 0 s; take fewer"):
        run(tiny(workers=1), quiet=True)


def test_workers_are_spread_over_the_gpus():
    taken: list[int | None] = []
    for _ in range(5):
        taken.append(workers.least_used(2, taken))
    assert taken == [0, 1, 0, 1, 0]
    taken.remove(1)  # a worker that died; its replacement takes that place
    assert workers.least_used(2, taken) == 1
    assert workers.least_used(0, []) is None
