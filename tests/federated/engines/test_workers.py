"""Worker processes give the weights of one process, and one that dies or hangs costs one client's round."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from federated.config.run import RunConfig
from federated.engines import workers
from federated.server.run import run
from tests.federated.conftest import run_quietly

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_workers_give_the_weights_of_one_process(tiny: Tiny, tmp_path: Path, strategy: str) -> None:
    fields: dict[str, Any] = {"clients": 5, "participation": 0.6, "strategy": strategy, "inject_failures": 0.2}
    alone = run_quietly(tiny(output=tmp_path / "alone", **fields))
    folder = tmp_path / "workers"
    assert run_quietly(tiny(output=folder, workers=2, **fields)) == alone
    assert not list(folder.glob(".*")), "the workers' files are left"


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

    monkeypatch.setattr(workers, "HANG_GRACE", 1.0)
    monkeypatch.setattr(workers.WorkerGrid, "_dispatch", dispatch)
    rows = run(tiny(workers=1, client_timeout=5.0, rounds=1), quiet=True).history
    assert rows[1]["failures"] == [{"client": 0, "reason": "ClientTimeout: hung for 6 s and was ended"}]


def test_an_idle_worker_that_died_is_noticed(tiny: Tiny, tmp_path: Path) -> None:
    folder = run(tiny(rounds=1), quiet=True).folder
    from federated.client.workspace import message_config

    config = message_config(tiny(rounds=1), folder / "partition.npz")
    with workers.worker_grid(3, 1, config, None) as grid:
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
