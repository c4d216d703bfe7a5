"""Recorded steps: what a GPU replays is what it would have computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from federated.client import gradients
from federated.client.gradients import RecordedGradients
from federated.client.training import Client, ClientHyperparameters, ClientUpdate, local_sgd
from federated.weights import weights_of
from fps_pretrain.models.encoders import build_classifier, build_encoder

HYPER = ClientHyperparameters(
    lr=0.05, momentum=0.9, weight_decay=5e-4, local_epochs=4, batch_size=8, augmentation="standard"
)
IMAGES = torch.randint(0, 256, (22, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(22) % 3


class CalledAgain:
    """A recording that calls its function anew, where there is no GPU to record for."""

    made = 0

    def __init__(self, function, parameters):
        CalledAgain.made += 1
        for _ in range(3):
            function()
        self.replay = function


def _model(device: str = "cpu") -> nn.Module:
    model = build_classifier(build_encoder("resnet20", seed=0), 3, seed=0)
    return model.to(device, memory_format=torch.channels_last)


def _train(
    model: nn.Module, recorded: RecordedGradients | None, count: int = 22, rounds: int = 3
) -> list[ClientUpdate]:
    """A client's rounds, each from what the last one made."""
    device = next(model.parameters()).device
    updates, weights = [], weights_of(model)
    for server_round in range(rounds):
        key = (0, server_round, 1)
        examples, targets = IMAGES[:count].to(device), LABELS[:count].to(device)
        updates.append(local_sgd(Client(model, examples, targets, HYPER, key, recorded=recorded), weights))
        weights = updates[-1].weights
    return updates


def _assert_same(one: list[ClientUpdate], other: list[ClientUpdate]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.metrics, a.steps) == (b.metrics, b.steps)
        assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_recording_changes_no_weight_and_is_made_once_for_each_size(monkeypatch):
    monkeypatch.setattr(CalledAgain, "made", 0)
    model = _model()
    recorded = RecordedGradients(model, F.cross_entropy, torch.device("cpu"), CalledAgain)
    plain, replayed = _train(_model(), None), _train(model, recorded)
    _assert_same(plain, replayed)
    # Batches of 8 (eight in the first round, sixteen after the second) and of 6 (four in a round).
    assert CalledAgain.made == 2
    _train(model, recorded)
    assert CalledAgain.made == 2


def test_what_cannot_be_recorded_is_computed_as_before(monkeypatch, caplog):
    def refuse(function, parameters):
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = _model()
    recorded = RecordedGradients(model, F.cross_entropy, torch.device("cpu"), refuse)
    with caplog.at_level("INFO"):
        _assert_same(_train(_model(), None), _train(model, recorded))
    assert caplog.text.count("operation not permitted when stream is capturing") == 1


def test_few_steps_are_not_recorded(monkeypatch):
    monkeypatch.setattr(CalledAgain, "made", 0)
    monkeypatch.setattr(gradients, "RECORD_AFTER", 1000)
    model = _model()
    _train(model, RecordedGradients(model, F.cross_entropy, torch.device("cpu"), CalledAgain))
    assert CalledAgain.made == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("count", [22, 3])
def test_a_gpu_replays_the_same_bits(monkeypatch, count):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    device = torch.device("cuda")
    model = _model("cuda")
    recorded = RecordedGradients(model, F.cross_entropy, device)
    replayed = _train(model, recorded, count, rounds=5)
    assert recorded._recorded
    _assert_same(_train(_model("cuda"), None, count, rounds=5), replayed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_ends_where_a_cpu_does(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = _model(), _model("cuda")
    gpu = _train(there, RecordedGradients(there, F.cross_entropy, torch.device("cuda")), rounds=1)[0]
    cpu = _train(here, None, rounds=1)[0]
    assert gpu.metrics["train_loss"] == pytest.approx(cpu.metrics["train_loss"], rel=0.02)


def test_hyperparameters_of_a_later_round_apply(monkeypatch):
    model = _model()
    recorded = RecordedGradients(model, F.cross_entropy, torch.device("cpu"), CalledAgain)
    start = weights_of(model)
    for hyper in (HYPER, replace(HYPER, lr=0.001)):
        client = Client(model, IMAGES, LABELS, hyper, (0, 1, 1), recorded=recorded)
        plain = local_sgd(Client(_model(), IMAGES, LABELS, hyper, (0, 1, 1)), start)
        _assert_same([plain], [local_sgd(client, start)])
