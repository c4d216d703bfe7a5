"""Runs in which clients train, share and keep parts of the model: with every algorithm, failing, private, resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.app import Array, Message
from torch import Tensor

from federated import algorithms
from federated.client import features
from federated.client.parts import Parts
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from federated.server.start.initialise import initial_classifier, initial_encoder
from federated.weights import weights_of
from fps_pretrain.common.errors import UserError
from tests.federated.conftest import run_quietly, take_no_pictures

Tiny = Callable[..., RunConfig]

FEW = {"limit_train": 40, "limit_test": 10, "rounds": 2}

STRATEGIES: dict[str, dict[str, Any]] = {
    name: {"strategy": name, **({"malicious": 0} if name in ("krum", "multikrum", "bulyan") else {})}
    for name in algorithms.names()
}
STRATEGIES["trimmedmean"]["trim"] = 0.4

USES: dict[str, dict[str, Any]] = {
    "head": {"train": "head"},
    "last-block": {"train": "last-block"},
    "personal": {"personal": "head"},
    "personal-last-block": {"train": "last-block", "personal": "head"},
}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    take_no_pictures(monkeypatch)


def start_of(config: RunConfig) -> dict[str, Tensor]:
    return weights_of(initial_classifier(config, initial_encoder(config)[0], 10))


def parts_of(config: RunConfig) -> Parts:
    return Parts.of(initial_classifier(config, initial_encoder(config)[0], 10), config)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_algorithm_changes_what_is_shared_and_nothing_else(tiny: Tiny, strategy: str, use: str) -> None:
    if strategy == "moon" and use == "head":
        with pytest.raises(UserError, match="--strategy moon compares features, which --train head freezes"):
            tiny(**STRATEGIES[strategy], **USES[use])
        return
    rounds = 2 if strategy in ("moon", "scaffold", "feddyn") else 1  # these go on from what they remember
    config = tiny(**{**FEW, **STRATEGIES[strategy], **USES[use], "rounds": rounds, "augment": "none"})
    result = run(config, quiet=True)
    state, parts = RunFolder(result.folder).load_state(), parts_of(config)
    assert not result.history[-1]["failures"]
    moved = changed(start_of(config), state.weights)
    assert moved <= parts.parameters | parts.buffers
    assert parts.parameters <= moved
    for name, carried in state.server.items():
        assert set(carried) <= parts.parameters | parts.buffers or all(key.isdecimal() for key in carried), name


@pytest.mark.parametrize(("use", "more"), [("head", "encoder.conv1.weight"), ("personal", "head.bias")])
def test_a_reply_with_more_than_is_shared_costs_the_round(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, use: str, more: str
) -> None:
    original = InProcessGrid.handle

    def handle(self: InProcessGrid, message: Message) -> Message:
        reply = original(self, message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 3:
            arrays = reply.content.array_records["arrays"]
            arrays[more] = Array(torch.zeros(10).numpy())
        return reply

    monkeypatch.setattr(InProcessGrid, "handle", handle)
    result = run(tiny(**{**FEW, **USES[use], "rounds": 1}), quiet=True)
    (failure,) = result.history[1]["failures"]
    assert failure == {"client": 1, "reason": "sent arrays of another model: with names that are not the model's"}


@pytest.mark.parametrize("dp", ["fixed", "adaptive"])
def test_privacy_covers_what_is_sent(tiny: Tiny, dp: str) -> None:
    config = tiny(**FEW, train="head", dp=dp, dp_secret=1, dp_clip=0.01, dp_noise=1e-6, validation=0.0)
    result = run(config, quiet=True)
    weights, start = RunFolder(result.folder).load_state().weights, start_of(config)
    assert changed(start, weights) == {"head.weight", "head.bias"}
    norm = sum(float((weights[name] - start[name]).square().sum()) for name in ("head.weight", "head.bias")) ** 0.5
    assert norm <= 0.01 * 2 * 1.5  # two rounds of clipped updates; the adaptive norm may grow by a fifth
    assert result.history[-1]["dp_epsilon"] > 0


def test_features_are_computed_once_a_run(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = features.normalise

    def normalise(images: Tensor) -> Tensor:
        seen.append(len(images))
        return original(images)

    monkeypatch.setattr(features, "normalise", normalise)
    fields = {"train": "head", "rounds": 3, "per_client_every": 1}
    once = run_quietly(tiny(output=tmp_path / "once", **fields))
    assert sum(seen) == 54 + 20 + 6  # training, test and validation examples
    seen.clear()
    again = run_quietly(tiny(output=tmp_path / "again", feature_cache=0, **fields))
    assert sum(seen) == 3 * 54 + 4 * (20 + 6) + 4 * 20
    assert once == again


def test_a_frozen_encoder_takes_the_statistics_of_the_clients_images(tiny: Tiny) -> None:
    config = tiny(**FEW, train="head", init_statistics="clients", head="centroid")
    weights, start = RunFolder(run(config, quiet=True).folder).load_state().weights, start_of(config)
    assert {name.rpartition(".")[2] for name in changed(start, weights)} == {
        *("running_mean", "running_var", "num_batches_tracked", "weight", "bias")
    }
    assert yaml.safe_load((config.folder / "init.yaml").read_text())["init_statistics"] == "clients"


def test_norms_without_statistics_and_low_precision(tiny: Tiny, tmp_path: Path) -> None:
    for number, use in enumerate(USES.values()):
        more = {"rounds": 1, "norm": "group", "precision": "bf16", "output": tmp_path / f"{number}"}
        config = tiny(**{**FEW, **use, **more})
        assert not run(config, quiet=True).history[-1]["failures"]


VARIANTS: dict[str, dict[str, Any]] = {
    **USES,
    "head-scaffold-failures": {"train": "head", "strategy": "scaffold", "inject_failures": 0.3, "seed": 2},
    "personal-scaffold": {"personal": "head", "strategy": "scaffold", "train": "last-block"},
    "personal-local": {"personal": "head", "bn_stats": "local", "per_client_every": 1},
    "last-block-server": {"train": "last-block", "bn_stats": "server"},
    "fine-tuned": {"fine_tune_epochs": 1, "per_client_every": 2},
    "all-at-once": {
        "train": "last-block",
        "personal": "head",
        "fine_tune_epochs": 2,
        "inject_failures": 0.3,
        "seed": 2,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    fields = {**FEW, "clients": 4, "participation": 0.75, "rounds": 3, **VARIANTS[variant]}
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    config = tiny(output=tmp_path / "stopped", **fields)
    original = RunFolder.save_state

    def save_state(self: RunFolder, state: Any) -> None:
        if state.round == 2:  # its line is written, its state is not
            raise KeyboardInterrupt
        original(self, state)

    monkeypatch.setattr(RunFolder, "save_state", save_state)
    with pytest.raises(KeyboardInterrupt):
        run(config, quiet=True)
    monkeypatch.setattr(RunFolder, "save_state", original)
    assert RunFolder(config.folder).load_state().round == 1
    assert run_quietly(config) == whole
    assert models_of_clients(config.folder) == models_of_clients(tmp_path / "whole")


def models_of_clients(folder: Path) -> dict[str, list[Tensor]]:
    """What clients keep after a run, as comparable values."""
    found = {}
    for path in sorted((folder / "clients").glob("*/*.pt")):
        state = torch.load(path, weights_only=True)
        parts = (part for name, part in state.items() if name not in ("whose", "checksum"))
        found[str(path.relative_to(folder))] = [t.tolist() for part in parts for t in part.values()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["head", "all-at-once"])
def test_workers_give_the_weights_of_one_process(tiny: Tiny, tmp_path: Path, variant: str) -> None:
    fields = {**FEW, "clients": 4, **VARIANTS[variant], "per_client_every": 1}
    alone = run_quietly(tiny(output=tmp_path / "alone", **fields))
    assert run_quietly(tiny(output=tmp_path / "workers", workers=2, **fields)) == alone
    assert models_of_clients(tmp_path / "workers") == models_of_clients(tmp_path / "alone")


def test_what_a_client_keeps_is_in_no_message(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head leaves the server once, as it is before training, and never comes back."""
    seen: dict[str, set[str]] = {"to": set(), "from": set()}
    original = InProcessGrid.handle

    def handle(self: InProcessGrid, message: Message) -> Message:
        if message.has_content() and "arrays" in message.content:
            seen["to"].update(message.content.array_records["arrays"])
        reply = original(self, message)
        if "arrays" in reply.content:
            seen["from"].update(reply.content.array_records["arrays"])
        return reply

    monkeypatch.setattr(InProcessGrid, "handle", handle)
    config = tiny(**FEW, personal="head", fine_tune_epochs=1)
    run(config, quiet=True)
    assert seen["to"] == seen["from"] == set(start_of(config)) - {"head.weight", "head.bias"}
