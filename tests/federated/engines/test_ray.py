"""Ray actors give the weights of one process; an actor or a machine that dies costs its clients one round."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from federated.config.run import RunConfig
from federated.engines import pool
from federated.engines import ray as engine
from federated.server.output.run_folder import read_history
from federated.server.run import Diverged, RunFailed, run
from fps_pretrain.common.errors import UserError
from tests.conftest import REPOSITORY, RunScript
from tests.federated.conftest import outcome, run_quietly
from tests.tools import warm

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")

Tiny = Callable[..., RunConfig]

FIELDS: dict[str, Any] = {"clients": 4, "participation": 0.75, "rounds": 3, "strategy": "scaffold"}


@pytest.fixture(scope="class")
def local_ray() -> Iterator[None]:
    """One Ray for the tests of a class: starting it takes seconds."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def with_actor_of(
    monkeypatch: pytest.MonkeyPatch, server_round: int, node: int, act: Callable[[int], object]
) -> list[int]:
    """Call ``act`` with the process id of the actor that has got this node's message of that round; lists the ids."""
    process_of: dict[Any, int] = {}
    done: list[int] = []
    original = engine.RayGrid._dispatch

    def dispatch(self: engine.RayGrid) -> None:
        for worker in self._workers:
            if worker.ready and worker.actor not in process_of:
                process_of[worker.actor] = ray.get(worker.actor.__ray_call__.remote(lambda actor: os.getpid()))
        original(self)
        for worker in self._workers:
            about = worker.message.metadata if worker.message else None
            if about and not done and (about.group_id, about.dst_node_id) == (str(server_round), node):
                done.append(process_of[worker.actor])
                act(done[0])

    monkeypatch.setattr(engine.RayGrid, "_dispatch", dispatch)
    return done


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


@pytest.mark.usefixtures("local_ray")
class TestLocal:
    """On this machine."""

    def test_ray_leaves_what_one_process_leaves(self, tiny: Tiny, tmp_path: Path) -> None:
        """With clients that are asked first, that remember and that fail: what is said of them is the same, too.

        Also what stays with the clients' own statistics, file by file.
        """
        fields = {**FIELDS, "inject_failures": 0.3, "seed": 2, "head": "centroid", "init_statistics": "clients"}
        left = []
        for name in ("inprocess", "ray"):
            folder = run(tiny(output=tmp_path / name, engine=name, bn_stats="local", **fields), quiet=True).folder
            states = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("clients/**/*.pt")}
            left.append((*outcome(folder), states))
        (rows, _, states), in_parallel = left
        assert any(row["failures"] for row in rows)
        assert states
        assert left[0] == in_parallel

    @pytest.mark.slow
    @pytest.mark.promise
    def test_clients_are_judged_at_their_actors(self, tiny: Tiny, tmp_path: Path) -> None:
        """With heads of their own, and after fine-tuning; what never changes is in the object store."""
        fields = {**FIELDS, "train": "last-block", "personal": "head", "fine_tune_epochs": 1, "per_client_every": 1}
        in_process = run_quietly(tiny(output=tmp_path / "inprocess", **fields))
        assert in_process == run_quietly(tiny(output=tmp_path / "ray", engine="ray", **fields))
        head = {"clients": 3, "rounds": 2, "train": "head", "fine_tune_epochs": 1}
        in_process = run_quietly(tiny(output=tmp_path / "head", **head))
        assert in_process == run_quietly(tiny(output=tmp_path / "head-ray", engine="ray", workers=1, **head))

    @pytest.mark.slow
    @pytest.mark.promise
    def test_actors_that_die_or_hang_cost_one_clients_round(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool, "HANG_GRACE", 0.0)
        with_actor_of(monkeypatch, 1, 3, kill)
        stopped = with_actor_of(monkeypatch, 2, 2, lambda process: os.kill(process, signal.SIGSTOP))
        rows = run(tiny(engine="ray", workers=1, client_timeout=8.0), quiet=True).history
        (failure,) = rows[1]["failures"]
        assert failure["client"] == 1
        assert failure["reason"].startswith("WorkerDied: its actor ended")
        assert rows[2]["failures"] == [{"client": 0, "reason": "ClientTimeout: hung for 8 s and was ended"}]
        assert rows[3]["failures"] == []
        (process,) = stopped
        deadline = time.monotonic() + 60
        while psutil.pid_exists(process) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not psutil.pid_exists(process)

    def test_a_run_whose_last_actor_is_gone_goes_on_later(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        fields = {"strategy": "scaffold"}
        with monkeypatch.context() as patch:
            with_actor_of(patch, 2, 3, kill)
            patch.setattr(pool, "START_ATTEMPTS", 2)
            patch.setattr(pool, "START_PAUSE", 0.01)
            original, started = engine.RayGrid._new_worker, []

            class Refusing:
                def __init__(self, *arguments: object) -> None:
                    raise ValueError("no memory")

                def ready(self) -> None: ...

                def handle(self) -> None: ...

            def new_worker(self: engine.RayGrid) -> Any:
                started.append(self)
                if len(started) == 2:
                    patch.setattr(engine, "ClientActor", Refusing)
                return original(self)

            patch.setattr(engine.RayGrid, "_new_worker", new_worker)
            with pytest.raises(RunFailed, match=r"no worker is left: .*no memory"):
                run(tiny(engine="ray", workers=1, **fields), quiet=True)
        assert run(tiny(**fields), quiet=True).resumed_from == 1

    def test_more_workers_than_the_cluster_has(self, tiny: Tiny) -> None:
        with pytest.raises(UserError, match=r"--workers 3 with 1 CPUs each are more than the 2 CPUs .*: take fewer"):
            run(tiny(engine="ray", workers=3), quiet=True)

    def test_a_run_without_clients_fails(self, tiny: Tiny) -> None:
        with pytest.raises(
            Diverged, match=r"3 of 3 clients failed in round 1 .*: the training loss is nan: lower --lr$"
        ):
            run(tiny(engine="ray", workers=1, lr=1e30), quiet=True)


@pytest.mark.promise
@pytest.mark.slow
def test_a_cluster_of_two_machines_one_of_which_is_lost(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    expected = run_quietly(tiny(output=tmp_path / "inprocess", **FIELDS))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        assert run_quietly(tiny(output=tmp_path / "cluster", engine="ray", **FIELDS)) == expected
        assert not ray.is_initialized()
        lost: list[str] = []
        original = engine.RayGrid._dispatch

        def dispatch(self: engine.RayGrid) -> None:
            for worker in self._workers:
                if worker.ready and not hasattr(worker, "home"):
                    home = worker.actor.__ray_call__.remote(lambda actor: ray.get_runtime_context().get_node_id())
                    worker.home = ray.get(home)
            original(self)
            for worker in self._workers:
                if worker.message and worker.message.metadata.group_id == "2" and worker.home == second.node_id:
                    lost.append(worker.home)
                    cluster.remove_node(second, allow_graceful=False)
                    monkeypatch.setattr(engine.RayGrid, "_dispatch", original)

        monkeypatch.setattr(engine.RayGrid, "_dispatch", dispatch)
        rows = run(tiny(output=tmp_path / "lost", engine="ray", clients=4, rounds=3), quiet=True).history
        assert len(lost) == 1
        assert [len(row["failures"]) for row in rows] == [0, 0, 1, 0]
        reasons = ("its machine left the cluster", "its actor cannot be reached")
        assert rows[2]["failures"][0]["reason"].removeprefix("WorkerDied: ") in reasons
    finally:
        cluster.shutdown()


@pytest.mark.parametrize("by_option", [True, False])
def test_a_cluster_that_is_not_there(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, by_option: bool) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2" if by_option else "127.0.0.1:1")
    with pytest.raises(UserError, match=r"--engine ray: no Ray cluster answers at 127\.0\.0\.1:1: .*refused"):
        run(tiny(engine="ray", ray_address="127.0.0.1:1" if by_option else None), quiet=True)


def test_addresses_that_are_checked() -> None:
    for address in ("auto", "local", "ray://head"):
        engine._check_reachable(address)


@pytest.mark.promise
@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_resume(run_script: RunScript, tmp_path: Path, interrupt: signal.Signals) -> None:
    size = "--limit-train 60 --limit-test 20 --image-size 8 --validation 0.1 --clients 3 --partition iid --threads 1"
    flags = [*size.split(), "--arch", "resnet8", "--rounds", "40", "--engine", "ray", "--output", str(tmp_path / "run")]
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
    assert [row["round"] for row in read_history(tmp_path / "run")] == list(range(41))
