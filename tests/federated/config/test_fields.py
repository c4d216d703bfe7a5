"""Every field of the configuration does something: a new one without a case here fails."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from federated.client import evaluation
from federated.client import training as local
from federated.config.run import RunConfig
from federated.server.output.run_folder import Row
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.federated.conftest import TINY, run_quietly, take_no_pictures

Tiny = Callable[..., RunConfig]

Outcome = tuple[list[Row], dict[str, bytes]]
Outcomes = Callable[..., Outcome]

WEIGHTS: dict[str, tuple[dict[str, Any], Any]] = {
    # field: (what the run around it needs, another value than the tiny run's)
    "arch": ({}, "resnet20"),
    "width": ({}, 2),
    "limit_train": ({}, 70),
    "image_size": ({}, 16),
    "validation": ({}, 0.2),
    "clients": ({}, 4),
    "partition": ({}, "shards"),
    "alpha": ({"partition": "dirichlet"}, 5.0),
    "shards_per_client": ({"partition": "shards"}, 3),
    "classes_per_client": ({"partition": "pathological", "clients": 5}, 3),
    "size_skew": ({"partition": "size"}, "square"),
    "participation": ({}, 0.4),
    "rounds": ({}, 2),
    "local_epochs": ({}, 2),
    "batch_size": ({}, 4),
    "lr": ({}, 0.01),
    "lr_schedule": ({"rounds": 2}, "cosine"),
    "momentum": ({}, 0.0),
    "train": ({}, "head"),
    "personal": ({}, "head"),
    "weight_decay": ({}, 0.1),
    "augment": ({}, "none"),
    "seed": ({}, 1),
    "server_lr": ({"strategy": "fedavgm"}, 0.5),
    "server_momentum": ({"strategy": "fedavgm", "rounds": 2}, 0.1),
    "beta1": ({"strategy": "fedadam"}, 0.5),
    "beta2": ({"strategy": "fedadam"}, 0.5),
    "tau": ({"strategy": "fedadagrad"}, 0.1),
    "prox_mu": ({"strategy": "fedprox"}, 1.0),
    "feddyn_alpha": ({"strategy": "feddyn"}, 0.5),
    "moon_mu": ({"strategy": "moon", "rounds": 2}, 5.0),
    "moon_temperature": ({"strategy": "moon", "rounds": 2}, 0.1),
    "q": ({"strategy": "qfedavg"}, 2.0),
    "q_lr": ({"strategy": "qfedavg"}, 0.5),
    "trim": ({"strategy": "trimmedmean", "clients": 5}, 0.4),
    "malicious": ({"strategy": "multikrum", "clients": 8}, 2),
    "selected": ({"strategy": "multikrum", "clients": 5}, 2),
    "norm": ({}, "group"),
    "bn_stats": ({}, "server"),
    "inject_failures": ({"rounds": 2}, 0.5),
    "head": ({}, "centroid"),
    "init_statistics": ({}, "clients"),
    "dp": ({}, "fixed"),
    "dp_noise": ({"dp": "fixed", "dp_secret": 1}, 2.0),
    "dp_clip": ({"dp": "fixed", "dp_secret": 1}, 0.1),
    "dp_quantile": ({"dp": "adaptive", "dp_secret": 1, "rounds": 2}, 0.9),
    "dp_secret": ({"dp": "fixed", "dp_secret": 1}, 2),
    "precision": ({"precision": "32"}, "bf16"),
}
"""Fields whose change changes the weights."""

ROWS: dict[str, tuple[dict[str, Any], Any]] = {
    "limit_test": ({}, 30),
    "eval_every": ({"rounds": 2}, 2),
    "per_client_every": ({}, 1),
    "fine_tune_epochs": ({}, 1),
}
"""Fields whose change changes what is measured, and not the weights."""

OTHERWISE = {
    "init", "dataset", "data_dir", "id_column", "strategy", "min_partition_size", "tensorboard", "wandb",
    "eval_batch_size", "engine", "ray_address", "gpus_per_client", "device", "threads", "output", "workers",
    "client_timeout", "node_timeout", "min_clients", "keep_clients_every",
    "keep_best", "mlflow", "serve", "feature_cache", "compile", "dp_delta",
}  # fmt: skip
"""Fields with a test of their own, below or in the tests of data, engines, failures, loggers and run folders."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The rows and weights of a run with these fields. A run that several tests compare with is made once."""
    known: dict[str, Outcome] = {}

    def of(**fields: Any) -> Outcome:
        key = repr(sorted(fields.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("run") / "run"
            with pytest.MonkeyPatch.context() as patch:
                take_no_pictures(patch)
                known[key] = run_quietly(RunConfig(**{**TINY, **SMALLER, **fields, "output": folder}))
        return known[key]

    return of


SMALLER = {"rounds": 1, "limit_train": 40, "limit_test": 10}


def test_every_field_has_a_case() -> None:
    assert not (set(WEIGHTS) & set(ROWS) | (set(WEIGHTS) | set(ROWS)) & OTHERWISE)
    assert set(WEIGHTS) | set(ROWS) | OTHERWISE == {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize("field", WEIGHTS)
def test_field_changes_the_weights(outcomes: Outcomes, field: str) -> None:
    around, value = WEIGHTS[field]
    assert outcomes(**around)[1] != outcomes(**{**around, field: value})[1]


@pytest.mark.parametrize("field", ROWS)
def test_field_changes_what_is_measured(outcomes: Outcomes, field: str) -> None:
    around, value = ROWS[field]
    before, after = outcomes(**around), outcomes(**{**around, field: value})
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("augment", ["crop", "standard"])
def test_auto_augmentation_is_crop_for_digits(outcomes: Outcomes, augment: str) -> None:
    assert (outcomes()[1] == outcomes(augment=augment)[1]) == (augment == "crop")


def test_init(outcomes: Outcomes, tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.pt", build_encoder("resnet8", seed=1), "resnet8", 1, {})
    assert outcomes()[1] != outcomes(init=str(tmp_path / "encoder.pt"))[1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "folder:nowhere"}, "nowhere must hold"),
        ({"dataset": "cifar10", "data_dir": Path("nowhere")}, "nowhere does not hold cifar10"),
        ({"strategy": "fedfoo"}, "--strategy"),
        ({"min_partition_size": 30}, "30 examples"),
    ],
)
def test_refused(tiny: Tiny, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tiny(**fields), quiet=True)
    assert not tiny().folder.exists()


def observe_batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each batch from now on, its size and the threads that work on it."""
    seen: list[tuple[int, int]] = []
    original = local.normalise

    def normalise(images: torch.Tensor) -> torch.Tensor:
        seen.append((len(images), torch.get_num_threads()))
        return original(images)

    for module in (evaluation, local):
        monkeypatch.setattr(module, "normalise", normalise)
    return seen


def test_eval_batch_size(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = observe_batches(monkeypatch)
    run(tiny(rounds=1, batch_size=2, eval_batch_size=9), quiet=True)
    assert max(size for size, _ in batches) == 9


def test_device(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda"):
        run(tiny(device="cuda"), quiet=True)
    assert not tiny().folder.exists()


def test_threads(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = observe_batches(monkeypatch)
    torch.set_num_threads(2)
    run(tiny(rounds=1, threads=1), quiet=True)
    torch.set_num_threads(1)
    assert {threads for _, threads in batches} == {1}


def test_engine_without_ray(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "ray" else original(name))
    with pytest.raises(UserError, match=r"pip install -e '\.\[ray\]'"):
        run(tiny(engine="ray"), quiet=True)
    assert not tiny().folder.exists()


def test_output(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tiny(rounds=1, output=tmp_path / "deep" / "er"), quiet=True).folder == tmp_path / "deep" / "er"
    assert run(tiny(rounds=1, output=None), quiet=True).folder == Path("runs/digits-iid-random-s0")
    assert (tmp_path / "runs" / "digits-iid-random-s0" / "model.pt").is_file()


def test_runs_that_train_otherwise_have_folders_of_their_own() -> None:
    options: list[dict[str, Any]] = [
        {},
        {"strategy": "fedprox"},
        {"train": "head"},
        {"personal": "head"},
        {"train": "last-block", "personal": "head"},
        {"fine_tune_epochs": 2},
        {"dp": "fixed", "norm": "group"},
    ]
    names = {RunConfig(**one).folder.name for one in options}
    assert len(names) == len(options)
    assert "digits-dirichlet0.3-random-fedprox-s0" in names
