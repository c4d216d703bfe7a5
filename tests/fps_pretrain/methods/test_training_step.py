"""What every method does in a step: its random key, and the values of the log against a few lines of NumPy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from fps_pretrain.common.errors import TrainingDiverged
from fps_pretrain.methods.base import PairMethod
from tests.fps_pretrain.methods.small import make, views


def step_of(module: PairMethod, step: int, monkeypatch: pytest.MonkeyPatch, rank: int = 0) -> dict[str, float]:
    """Take a training step with its backward pass; what it logs."""
    values: dict[str, float] = {}
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.125}])])
    monkeypatch.setattr(PairMethod, "trainer", trainer)
    monkeypatch.setattr(PairMethod, "global_step", step)
    monkeypatch.setattr(PairMethod, "global_rank", rank)
    monkeypatch.setattr(module, "log", lambda name, value, **_: values.update({name: float(value)}), raising=False)
    module.zero_grad()
    loss = module.training_step(torch.stack([views(2 * step), views(2 * step + 1)]), step)
    if loss.requires_grad:
        loss.backward()
        module.on_after_backward()
    return values


def rank_of(vectors: Tensor) -> float:
    """exp of the entropy of the covariance's singular values, as shares of their sum."""
    values = np.linalg.svd(np.cov(vectors.detach().double().numpy().T), compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def test_every_third_step_logs_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make("simsiam", log_every=3)
    for step in range(6):
        found = step_of(module, step, monkeypatch)
        if step not in (2, 5):
            assert not found
            continue
        batch = views(2 * step), views(2 * step + 1)
        features = [module.encoder(view) for view in batch]
        z1, z2 = (module.projector(each).detach() for each in features)
        p1, p2 = (module.predictor(module.projector(each)) for each in features)
        unit = z1 / z1.norm(dim=1, keepdim=True)
        gradients = [p.grad.double().square().sum().item() for p in module.encoder.parameters() if p.grad is not None]
        expected = {
            "loss": module.pair_loss((z1, p1), (z2, p2)).item(),
            "loss_shuffled": module.pair_loss((z1, p1), (z2.roll(1, 0), p2.roll(1, 0))).item(),
            "embedding_spread": (unit.std(dim=0).mean() * 512**0.5).item(),
            "embedding_rank": rank_of(unit),
            "feature_rank": rank_of(torch.cat(features)),
            "gradient_norm": sum(gradients) ** 0.5,
            "lr": 0.125,
            "pairs_seen": 8 * (step + 1),
        }
        assert found == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}


def test_mocos_log_has_the_norm_of_the_gradient_too(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make("moco", log_every=1, method_options=("queue=16",))
    assert step_of(module, 0, monkeypatch)["gradient_norm"] > 0


def test_random_numbers_of_a_step_are_keyed_by_seed_step_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def embed(first: Tensor, second: Tensor) -> tuple[tuple[Tensor], tuple[Tensor]]:
        drawn.append(float(torch.rand(())))
        return (first.flatten(1),), (second.flatten(1),)

    for seed, step, rank in ((3, 1, 0), (4, 1, 0), (3, 2, 0), (3, 1, 1), (3, 1, 0)):
        module = make("simclr", seed=seed)
        monkeypatch.setattr(module, "embed_pair", embed, raising=False)
        torch.manual_seed(len(drawn))  # what came before has no say in it
        step_of(module, step, monkeypatch, rank)
    assert drawn[0] == drawn[4]
    assert len(set(drawn)) == 4


def test_the_first_of_several_losses_that_are_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several devices, and a GPU, look at their losses later than at each step."""
    module = make("simclr", devices=2)
    for step, loss in enumerate([1.0, float("inf"), 2.0, float("nan")]):
        monkeypatch.setattr(PairMethod, "global_step", step)
        module._watch(torch.tensor(loss))
    module.config = replace(module.config, devices=1)  # nobody to ask
    with pytest.raises(TrainingDiverged, match=r"at step 1$"):
        module.refuse_if_diverged()
