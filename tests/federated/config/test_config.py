from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federated.config.run import RunConfig, differences, from_yaml, to_yaml
from fps_pretrain.common.errors import UserError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, 0) for name in ("width", "clients", "min_partition_size", "rounds", "threads")],
        *[(name, 0) for name in ("local_epochs", "batch_size", "eval_every", "eval_batch_size", "limit_train")],
        *[(name, float("nan")) for name in ("validation", "alpha", "participation", "lr", "momentum", "weight_decay")],
        ("limit_test", 0),
        ("image_size", 4),
        ("seed", -1),
        ("validation", 1.0),
        ("alpha", 0.0),
        ("alpha", float("inf")),
        ("participation", 1.5),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("strategy", "fedfoo"),
        ("partition", "random"),
        ("dataset", "mnist"),
        ("dataset", "folder:"),
        ("dataset", "tiny-imagenet"),
        ("partition", "natural"),
        ("init", "torchvision:"),
        ("init", "torchvision:resnet18"),  # --arch is resnet20
        ("per_client_every", -1),
        ("tensorboard", 1),
        ("clients", "ten"),
        ("clients", True),
        ("lr", None),
        ("data_dir", Path("somewhere")),  # digits need none
    ],
)
def test_values_out_of_range_name_their_flag(field: str, value: Any) -> None:
    with pytest.raises(UserError, match="--" + field.replace("_", "-")):
        RunConfig(**{field: value})


def test_yaml_keeps_values_and_types() -> None:
    config = RunConfig(dataset="cifar10", data_dir=Path("here"), limit_train=7, output=Path("there"), lr=0.1)
    assert from_yaml(to_yaml(config)) == config
    assert from_yaml(to_yaml(RunConfig())) == RunConfig()
    assert from_yaml("precision: 32") == RunConfig()


@pytest.mark.parametrize(
    ("field", "value", "around"),
    [
        ("alpha", 0.1, {"partition": "iid"}),
        ("shards_per_client", 3, {}),
        ("classes_per_client", 3, {}),
        ("size_skew", "square", {}),
        ("id_column", "writer", {}),
        ("dp_noise", 2.0, {}),
        ("dp_quantile", 0.3, {"dp": "fixed"}),
    ],
)
def test_fields_that_the_choice_does_not_use_are_refused(field: str, value: Any, around: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^--{field.replace('_', '-')} goes with --"):
        RunConfig(**{field: value, **around})


def test_details_have_the_defaults_of_their_choice() -> None:
    assert (RunConfig().alpha, RunConfig(partition="iid").alpha) == (0.3, None)
    assert RunConfig(partition="shards").shards_per_client == 2
    assert replace(RunConfig(), partition="iid").alpha is None
    assert RunConfig().image_size == 32
    assert RunConfig(dataset="tiny-imagenet", data_dir=Path("x")).image_size == 64


@pytest.mark.parametrize("text", ["- a\n", "a: [", "colour: red\n", "clients: ten\n", "!!python/object:os.system {}"])
def test_yaml_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        from_yaml(text)


def test_only_where_a_run_is_computed_may_differ_on_resume() -> None:
    config = RunConfig()
    assert not differences(config, RunConfig(engine="ray", device="cpu", threads=1, output=Path("elsewhere")))
    assert differences(config, RunConfig(lr=0.1, clients=5)) == ["--clients 10 (now 5)", "--lr 0.05 (now 0.1)"]


def test_default_folder_tells_runs_apart() -> None:
    folder = RunConfig(dataset="folder:/data/pets", init="checkpoints/fps_r20.pt", alpha=0.1, seed=3).folder
    assert folder == Path("runs/pets-dirichlet0.1-fps_r20-s3")


def test_the_command_line_waits_for_nothing_heavy() -> None:
    check = "import sys, run_fl; print([m for m in ('torch', 'flwr', 'datasets', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
