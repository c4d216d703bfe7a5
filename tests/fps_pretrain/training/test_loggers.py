"""The columns of the log, and MLflow beside CSV and TensorBoard."""

import importlib.util
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
from pytorch_lightning.loggers import mlflow as lightning

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.trackers import MLFLOW_ID
from fps_pretrain.training import run as train
from tests.conftest import REPOSITORY
from tests.fps_pretrain.training.runs import run


def test_the_columns_of_the_log_are_described(baseline):
    page = (REPOSITORY / "docs" / "pretraining.md").read_text()
    (table,) = re.findall(r"^\| column \|.*\n\|---.*\n((?:\|.*\n)+)", page, re.M)
    described = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(described) == len(set(described))
    assert set(described) == {*baseline["log"][0], *baseline["probes"][0].split(","), "linear_accuracy"}


class Client:
    """As much of mlflow.tracking.MlflowClient as Lightning and the logger use; one server for the whole test."""

    runs: dict = {}  # noqa: RUF012
    uris: list = []  # noqa: RUF012

    def __init__(self, uri):
        self.uris.append(uri)

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="0", lifecycle_stage="active")

    def create_run(self, experiment_id, tags):
        made = SimpleNamespace(
            info=SimpleNamespace(run_id=f"id{len(self.runs)}", experiment_id=experiment_id),
            tags=tags,
            params={},
            sent=[],
        )
        self.runs[made.info.run_id] = made
        return made

    def get_run(self, run_id):
        found = self.runs[run_id]
        found.data = SimpleNamespace(metrics={value.key: value.value for value in found.sent})
        return found

    def get_metric_history(self, run_id, key):
        return [value for value in self.runs[run_id].sent if value.key == key]

    def log_batch(self, run_id, metrics=(), params=()):
        self.runs[run_id].sent += metrics
        self.runs[run_id].params |= {one.key: one.value for one in params}

    def set_terminated(self, run_id, status):
        self.runs[run_id].status = status


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(Client, "runs", {})
    monkeypatch.setattr(Client, "uris", [])
    monkeypatch.setattr(lightning, "_MLFLOW_AVAILABLE", True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    contents = {
        "mlflow": {"set_tracking_uri": lambda uri: None},
        "mlflow.tracking": {"MlflowClient": Client},
        "mlflow.tracking.context": {},
        "mlflow.tracking.context.registry": {"resolve_tags": lambda tags: tags},
        "mlflow.entities": {"Metric": SimpleNamespace, "Param": SimpleNamespace},
        "mlflow.utils": {},
        "mlflow.utils.mlflow_tags": {"MLFLOW_RUN_NAME": "name"},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(
        sys.modules["mlflow.tracking"], "context", sys.modules["mlflow.tracking.context"], raising=False
    )
    return Client


def interrupted_once(folder, monkeypatch):
    """A run that is cut off after four steps without a saved state, and begun again."""
    step = train.PairMethod.training_step

    def cut(self, batch, batch_idx):
        if self.global_step == 4:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(train.PairMethod, "training_step", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(folder, mlflow=True, state_every=1e6)
    run(folder, mlflow=True)


def test_mlflow_has_each_step_once_however_often_a_run_is_begun(tmp_path, no_probe, stand_in, monkeypatch):
    interrupted_once(tmp_path, monkeypatch)
    (logged,) = stand_in.runs.values()
    steps = {name: [v.step for v in logged.sent if v.key == name] for name in ("loss", "lr", "knn_accuracy")}
    assert steps == {"loss": [0, 1, 2, 3, 4, 5], "lr": [0, 1, 2, 3, 4, 5], "knn_accuracy": [3, 6]}
    assert logged.params["arch"] == "resnet8"
    assert logged.tags["name"] == "run"
    assert logged.status == "FINISHED"
    assert stand_in.uris[0] == f"sqlite:///{(tmp_path / 'run').resolve() / 'mlflow.db'}"


def test_mlflow_itself(tmp_path, no_probe, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    interrupted_once(tmp_path, monkeypatch)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    known = (tmp_path / "run" / MLFLOW_ID).read_text()
    assert [value.step for value in client.get_metric_history(known, "loss")] == [0, 1, 2, 3, 4, 5]
    assert client.get_run(known).data.params["arch"] == "resnet8"


def test_without_mlflow(tmp_path, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "mlflow" else original(name))
    with pytest.raises(UserError, match=r"pip install -e '\.\[mlflow\]'"):
        run(tmp_path, mlflow=True)
    assert not (tmp_path / "run").exists()
