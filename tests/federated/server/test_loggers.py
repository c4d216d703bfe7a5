from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from federated.config.run import RunConfig
from federated.server.output import file_names, loggers
from federated.server.run import RunFailed, run
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.trackers import MLFLOW_ID

Tiny = Callable[..., RunConfig]


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values by name."""
    events = EventAccumulator(str(folder / file_names.TENSORBOARD))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_each_round_once_however_often_a_run_is_resumed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federated.algorithms import fedavg

    original = fedavg.train_client

    def failing(client: Any, weights: Any) -> Any:
        if client.key[1] == 3:
            raise ValueError("power cut")
        return original(client, weights)

    with monkeypatch.context() as patch:
        patch.setattr(fedavg, "train_client", failing)
        with pytest.raises(RunFailed):
            run(tiny(tensorboard=True, rounds=4), quiet=True)
    result = run(tiny(tensorboard=True, rounds=4), quiet=True)
    scalars = logged(result.folder)
    assert scalars["test_accuracy"] == [
        (row["round"], pytest.approx(row["test_accuracy"], rel=1e-6)) for row in result.history
    ]
    assert [step for step, _ in scalars["train_loss"]] == [1, 2, 3, 4]


def test_no_tensorboard_unless_asked_for(tiny: Tiny) -> None:
    assert not (run(tiny(rounds=1), quiet=True).folder / file_names.TENSORBOARD).exists()


def test_only_numbers_are_logged() -> None:
    row = {"round": 3, "test_accuracy": 0.5, "val_loss": None, "participants": [1], "clients": {}, "failed": True}
    assert loggers.scalars(row) == {"test_accuracy": 0.5}


def test_without_wandb(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "wandb" else original(name))
    with pytest.raises(UserError, match=r"pip install -e '\.\[wandb\]'"):
        run(tiny(wandb=True), quiet=True)
    assert not tiny().folder.exists()


def test_wandb_offline(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(tiny(wandb=True, rounds=1), quiet=True).folder
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


def test_without_mlflow(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "mlflow" else original(name))
    with pytest.raises(UserError, match=r"pip install -e '\.\[mlflow\]'"):
        run(tiny(mlflow=True), quiet=True)
    assert not tiny().folder.exists()


class StandIn(ModuleType):
    """As much of mlflow as is used: one tracking server for the whole test."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = importlib.util.spec_from_loader("mlflow", loader=None)
        self.runs: dict[str, Any] = {}
        self.uris: list[str] = []

    def set_tracking_uri(self, uri: str) -> None:
        self.uris.append(uri)

    @contextmanager
    def start_run(self, run_id: str | None, run_name: str) -> Iterator[Any]:
        run_id = run_id or f"id{len(self.runs)}"
        info, data = SimpleNamespace(run_id=run_id, run_name=run_name), SimpleNamespace(tags={}, params={})
        self.current = self.runs.setdefault(run_id, SimpleNamespace(info=info, data=data, metrics=[]))
        yield self.current

    def log_params(self, values: dict[str, Any]) -> None:
        assert not self.current.data.params
        self.current.data.params.update(values)

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.current.metrics.append((step, values))

    def set_tag(self, name: str, value: Any) -> None:
        self.current.data.tags[name] = str(value)


def test_mlflow_has_each_round_once_however_often_a_run_is_resumed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from federated.algorithms import fedavg

    mlflow = StandIn()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with monkeypatch.context() as patch:
        original = fedavg.train_client
        patch.setattr(fedavg, "train_client", lambda c, w: 1 / 0 if c.key[1] == 3 else original(c, w))
        with pytest.raises(RunFailed):
            run(tiny(mlflow=True, rounds=4), quiet=True)
    result = run(tiny(mlflow=True, rounds=4), quiet=True)
    (logged_run,) = mlflow.runs.values()
    assert [step for step, _ in logged_run.metrics] == [0, 1, 2, 3, 4]
    assert [values["test_accuracy"] for _, values in logged_run.metrics] == [
        row["test_accuracy"] for row in result.history
    ]
    assert logged_run.info.run_name == result.folder.name
    assert logged_run.data.params["dataset"] == "digits"
    assert mlflow.uris[0] == f"sqlite:///{result.folder.resolve() / 'mlflow.db'}"


class WandbStandIn(ModuleType):
    """As much of wandb as is used: each session with its options, and what it was sent."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.util.spec_from_loader("wandb", loader=None)
        self.sessions: list[tuple[dict[str, Any], list[tuple[int, dict[str, float]]]]] = []

    @contextmanager
    def init(self, **options: Any) -> Iterator[Any]:
        sent: list[tuple[int, dict[str, float]]] = []
        self.sessions.append((options, sent))
        yield SimpleNamespace(log=lambda values, step: sent.append((step, values)))


def test_wandb_goes_on_as_the_run_of_this_folder(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = WandbStandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    rows = [{"round": number, "test_accuracy": number / 10, "val_loss": None} for number in range(4)]
    configs = [tiny(wandb=True), tiny(wandb=True), tiny(wandb=True, lr=0.3)]
    folders = [tmp_path / "run", tmp_path / "run", tmp_path / "run", tmp_path / "other"]
    for config, folder in zip([*configs, configs[0]], folders, strict=True):
        with loggers.loggers(config, folder, rows[:2]) as publish:
            publish(rows[2])
    for options, sent in wandb.sessions:
        assert sent == [(number, {"test_accuracy": number / 10}) for number in range(3)]
        assert options["resume"] == "allow"
        assert options["dir"] == str(tmp_path / options["name"])
    first, again, rate, folder = [options["id"] for options, _ in wandb.sessions]
    assert first == again, "resumed, it is the same run"
    assert len({first, rate, folder}) == 3, "another configuration or folder is another run"
    assert wandb.sessions[2][0]["config"]["lr"] == 0.3


def test_trackers_are_not_told_the_secret(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow, wandb, secret = StandIn(), WandbStandIn(), 98765432109876543210
    for module in (mlflow, wandb):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with loggers.loggers(tiny(wandb=True, mlflow=True, dp="fixed", dp_secret=secret), tmp_path, []):
        pass
    (options, _), (logged_run,) = wandb.sessions[0], mlflow.runs.values()
    for told in (options["config"], logged_run.data.params):
        assert told["dp"] == "fixed"
        assert str(secret) not in str(told)


def test_mlflow_itself(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    folder = run(tiny(mlflow=True, rounds=1), quiet=True).folder
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    stored = mlflow.get_run((folder / MLFLOW_ID).read_text())
    assert stored.data.params["rounds"] == "1"
    assert stored.data.tags[loggers.LAST_ROUND] == "1"
