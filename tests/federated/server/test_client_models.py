"""The clients' models of some rounds: a bounded number of files, spread over the run."""

import itertools

import pytest
import torch

from federated.server.output import client_models
from federated.server.output.client_models import ClientModels
from fps_pretrain.common.errors import UserError


def models(number):
    weights = [{"w": torch.full((2,), float(value))} for value in range(4)]
    return ClientModels(number, [3, 5], [10, 20], weights[0], weights[1:3], weights[3])


def test_a_round_comes_back_as_it_was_saved(tmp_path):
    path = client_models.save(tmp_path, models(10))
    assert path.name == "round-000010.pt"
    assert set(torch.load(path, weights_only=True)) == {"round", "clients", "examples", "start", "updates", "result"}
    again = client_models.load(tmp_path, 10)
    assert (again.round, again.clients, again.examples) == (10, [3, 5], [10, 20])
    assert torch.equal(again.updates[1]["w"], torch.full((2,), 2.0))
    assert torch.equal(again.result["w"], torch.full((2,), 3.0))


def test_a_bounded_number_of_rounds_spread_over_the_run(tmp_path):
    for number in range(10, 210, 10):
        client_models.save(tmp_path, models(number))
        assert len(client_models.rounds(tmp_path)) <= client_models.KEEP
    kept = client_models.rounds(tmp_path)
    assert (kept[0], kept[-1], len(kept)) == (10, 200, 5)
    assert max(b - a for a, b in itertools.pairwise(kept)) <= 100


def test_rounds_that_will_be_done_again_go(tmp_path):
    for number in (2, 4, 6):
        client_models.save(tmp_path, models(number))
    client_models.rewind(tmp_path, 4)
    assert client_models.rounds(tmp_path) == [2, 4]
    assert client_models.rounds(tmp_path / "nothing") == []


def test_another_file_is_refused(tmp_path):
    (tmp_path / client_models.FOLDER).mkdir()
    torch.save({"round": 1}, tmp_path / client_models.FOLDER / "round-000001.pt")
    with pytest.raises(UserError, match="lacks clients"):
        client_models.load(tmp_path, 1)
    with pytest.raises(UserError):
        client_models.load(tmp_path, 2)
