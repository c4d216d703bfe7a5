"""Privacy from round to round: what a later round's noise, participants and clipping norm depend on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from federated.config.run import RunConfig
from federated.server.cohort import sample_each_client
from federated.server.privacy import CentralPrivacy, epsilon, update_noise
from federated.server.run import run
from tests.federated.server.test_privacy import privacy_of, release


def test_noise_follows_the_clipping_norm_of_the_round() -> None:
    """An adaptive norm that has grown tenfold needs ten times the noise of the first round."""
    fields = {"dp": "adaptive", "dp_clip": 0.5, "dp_noise": 1.5}
    mean, released = release([torch.zeros(200, 100)] * 4, 3, CentralPrivacy.state_of(5.0, 2), **fields)
    assert float(mean.std()) == pytest.approx(update_noise(1.5, 4) * 5.0 / 4, rel=0.02)
    assert released.metrics()["dp_clip"] == 5.0


def test_each_number_of_a_model_has_noise_of_its_own() -> None:
    change = {name: torch.zeros(50, 50, dtype=torch.float64) for name in ("one", "other")}
    privacy_of(4, dp_noise=1.0).add_noise(change, 1.0, 1)
    noise = torch.stack([tensor.flatten() for tensor in change.values()])
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.1
    assert len(noise.unique()) == noise.numel()


def test_who_takes_part_follows_from_the_secret() -> None:
    drawn = [[sample_each_client(key, number, 40, 0.5) for number in range(1, 4)] for key in (1, 1, 2, 2**127 + 1)]
    assert drawn[0] == drawn[1]
    assert len({str(rounds) for rounds in drawn}) == 3


def test_an_update_as_long_as_the_norm_is_not_above_it() -> None:
    _, released = release([torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.1])], dp="adaptive", dp_clip=5.0)
    clip = float(released.state()["privacy"]["clip"])
    assert clip == privacy_of(2, dp="adaptive", dp_clip=5.0).next_clip(5.0, 1, 2, 1)


def test_any_sampling_is_counted_for() -> None:
    spent = [epsilon(10, 1.0, probability, 1e-5) for probability in (0.1, 0.5, 0.8, 1.0)]
    assert spent == sorted(set(spent))
    assert spent[2] < 0.95 * spent[3]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_clients_reports_are_averaged_as_ever(tiny: Callable[..., RunConfig], strategy: str) -> None:
    """The algorithm sees one noisy update, which has no reports. All clients count the same."""
    row = run(tiny(dp="fixed", strategy=strategy, partition="size", rounds=1), quiet=True).history[1]
    assert len(row["clients"]["train_loss"]) == 3
    assert row["train_loss"] == pytest.approx(np.mean(row["clients"]["train_loss"]))
    assert row["train_accuracy"] is not None
