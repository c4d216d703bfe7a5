"""The fast ways give what the reference gives: 32 bits, one process, not compiled. Bit by bit, or within a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from federated import algorithms
from federated.client import workspace
from federated.config.run import RunConfig, from_yaml
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from federated.server.start import auto_options
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.encoders import build_classifier, build_encoder
from tests.federated.conftest import run_quietly

Tiny = Callable[..., RunConfig]

NEEDS = {"krum": 5, "multikrum": 5, "bulyan": 7, "trimmedmean": 5}
"""Clients that an algorithm needs."""

ALL = [
    pytest.param(name, marks=() if name in ("fedavg", "scaffold") else pytest.mark.slow) for name in algorithms.names()
]


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return build_classifier(build_encoder("resnet20", seed=0), 10, seed=0)


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what the machine multiplies."""
    return lambda native: monkeypatch.setattr(workspace, "native_precision", lambda gpu: native)


@pytest.mark.parametrize("native", ["32", "bf16"])
def test_precision_is_the_machines_and_stays_a_runs(tiny: Tiny, begins: Callable[[str], None], native: str) -> None:
    begins(native)
    config = tiny(rounds=1, precision="auto")
    folder = run(config, quiet=True).folder
    assert RunFolder(folder).config().precision == native
    begins("32" if native == "bf16" else "bf16")
    (folder / "model.pt").unlink()
    assert run(config, quiet=True).resumed_from == 1
    with pytest.raises(UserError, match="--precision"):
        run(replace(config, precision="32" if native == "bf16" else "bf16"), quiet=True)


def test_what_follows_from_other_options_or_the_machine_stays_auto_in_the_folder(tiny: Tiny) -> None:
    autos: dict[str, Any] = dict.fromkeys(("precision", "workers", "augment", "device"), "auto")
    saved = RunFolder(run(tiny(rounds=1, **autos), quiet=True).folder).config()
    assert {name for name in autos if getattr(saved, name) == "auto"} == {"augment", "device"}


def test_auto_is_the_default() -> None:
    assert (RunConfig().precision, RunConfig().workers) == ("auto", "auto")


@pytest.mark.parametrize(
    ("fields", "sizes", "cores", "workers", "threads"),
    [
        ({}, [500] * 10, 4, 4, None),
        ({}, [500] * 10, 16, 10, None),
        ({"threads": 2}, [500] * 10, 4, 2, 2),
        ({"clients": 1}, [5000], 4, 0, None),
        ({}, [500] * 10, 1, 0, 1),
        ({"rounds": 1}, [3] * 10, 4, 0, 1),
        ({"engine": "ray"}, [500] * 10, 4, None, None),
        ({}, [], 4, None, None),
        ({"workers": 3}, [3] * 10, 4, 3, None),
        ({"workers": 0}, [500] * 10, 4, 0, None),
    ],
)
def test_workers_are_as_many_as_pay(
    monkeypatch: pytest.MonkeyPatch, classifier: nn.Module, fields: Any, sizes: list[int], cores: int,
    workers: int | None, threads: int | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(auto_options, "cores", lambda: cores)
    found = auto_options.with_workers(RunConfig(**{"device": "cpu", **fields}), None, classifier, sizes)
    assert (found.workers, found.threads) == (workers, threads)


@pytest.mark.parametrize(("seconds", "workers"), [(30.0, 0), (41.0, 2)])
def test_workers_pay_by_what_they_save(
    monkeypatch: pytest.MonkeyPatch, classifier: nn.Module, seconds: float, workers: int
) -> None:
    """Two of them save half the time, which must be more than their start takes."""
    monkeypatch.setattr(auto_options, "cores", lambda: 2)
    monkeypatch.setattr(auto_options, "seconds_of_training", lambda *_: seconds)
    assert auto_options.with_workers(RunConfig(device="cpu"), None, classifier, [500] * 10).workers == workers


def test_seconds_of_training_count_every_pass(monkeypatch: pytest.MonkeyPatch, classifier: nn.Module) -> None:
    monkeypatch.setattr(auto_options, "operations", lambda *_: auto_options.SPEED)  # a second a forward pass
    config = RunConfig(device="cpu", clients=10, participation=0.5, rounds=4, local_epochs=3)
    assert auto_options.seconds_of_training(config, classifier, [1, 3] * 5) == 3 * 2 * 5 * 4 * 3
    assert auto_options.seconds_of_training(replace(config, train="head"), classifier, [1, 3] * 5) == 20


def test_a_run_that_began_without_workers_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, classifier: nn.Module
) -> None:
    monkeypatch.setattr(auto_options, "cores", lambda: 4)
    config = RunConfig(device="cpu")
    assert auto_options.with_workers(config, replace(config, workers=None), classifier, [500] * 10).workers is None
    assert from_yaml("workers: null").workers is None


def test_operations_are_those_of_the_network(classifier: nn.Module) -> None:
    # 41 million multiplications and additions each (He et al. 2016, table 6, has 0.27 million weights for ResNet-20).
    assert 79e6 < auto_options.operations(classifier, 32) < 84e6
    assert classifier.training


@pytest.mark.parametrize("strategy", ALL)
def test_workers_give_the_bits_of_one_process(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    fields: dict[str, Any] = {"strategy": strategy, "clients": NEEDS.get(strategy, 3), "rounds": 2}
    alone = run_quietly(tiny(output=tmp_path / "alone", workers=0, **fields))
    monkeypatch.setattr(auto_options, "cores", lambda: 2)
    monkeypatch.setattr(auto_options, "LONG", 0.0)
    folder = tmp_path / "auto"
    assert run_quietly(tiny(output=folder, **fields)) == alone
    assert RunFolder(folder).config().workers == 2
    assert "2 workers" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("strategy", ALL)
def test_bfloat16_is_near_32_bits(tiny: Tiny, tmp_path: Path, strategy: str) -> None:
    """After a round the weights differ by less than a third of what the round has changed."""
    fields = {"strategy": strategy, "clients": NEEDS.get(strategy, 3), "rounds": 1, "lr": 0.01}
    exact, near = (
        RunFolder(run(tiny(output=tmp_path / precision, precision=precision, **fields), quiet=True).folder).load_state()
        for precision in ("32", "bf16")
    )
    begin = build_classifier(build_encoder("resnet8", seed=0), 10, seed=0).state_dict()
    names = [name for name, tensor in begin.items() if tensor.is_floating_point() and "running" not in name]

    def distance(a: Any, b: Any) -> float:
        return sum(float((a[name] - b[name]).square().sum()) for name in names) ** 0.5

    assert 0 < distance(exact.weights, near.weights) < distance(exact.weights, begin) / 3


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have torch.compile trace the network and run what it traced as it is; the list gets an entry for each time."""
    compiled: list[int] = []
    original = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        compiled.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function: original(function, backend=backend))
    torch._dynamo.reset()
    workspace._compiled_in_training.cache_clear()
    return compiled


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("strategy", ALL)
def test_one_network_is_compiled_for_all_clients_rounds_and_batch_sizes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, precision: str
) -> None:
    """Clients of 10 to 25 examples, in batches of 8, so that last batches have many sizes. What is traced is exact."""
    fields: dict[str, Any] = {"strategy": strategy, "clients": NEEDS.get(strategy, 3), "rounds": 2}
    fields |= {"partition": "size", "limit_train": 90, "precision": precision}
    plain = run_quietly(tiny(output=tmp_path / "plain", **fields))
    compiled = counting(monkeypatch)
    try:
        assert run_quietly(tiny(output=tmp_path / "compiled", compile=True, **fields)) == plain
    finally:
        workspace._compiled_in_training.cache_clear()
    assert len(compiled) == 1


def test_without_a_compiler_a_run_goes_on_uncompiled(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    result = run(tiny(rounds=1, compile=True, device="cpu"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--compile")]
    assert lines == [
        "--compile needs a C++ compiler (g++ or clang++), and there is none here; going on without --compile"
    ]
    assert not RunFolder(result.folder).config().compile


@pytest.mark.slow
def test_compiled_code_is_near_what_it_compiles(tiny: Tiny, tmp_path: Path) -> None:
    """Within a thousandth of what a round changes; PyTorch's compiler fuses and reorders sums."""
    plain, compiled = (
        RunFolder(run(tiny(output=tmp_path / str(on), compile=on, rounds=1, lr=0.01), quiet=True).folder).load_state()
        for on in (False, True)
    )
    begin = build_classifier(build_encoder("resnet8", seed=0), 10, seed=0).state_dict()
    for name, tensor in plain.weights.items():
        if tensor.is_floating_point():
            changed = float((tensor - begin[name]).norm())
            assert float((tensor - compiled.weights[name]).norm()) <= 1e-3 * changed + 1e-6, name
