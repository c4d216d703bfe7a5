"""The clients' models of some rounds: a bounded number of files, spread over the run."""

import itertools
from dataclasses import replace

import pytest
import torch

from federated.server.output import client_models, file_names
from federated.server.output.client_models import ClientModels
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from tests.federated.conftest import mean_of, outcome


def models(number):
    weights = [{"w": torch.full((2,), float(value))} for value in range(4)]
    return ClientModels(number, [3, 5], [10, 20], weights[0], weights[1:3], weights[3])


def test_a_round_comes_back_as_it_was_saved(tmp_path):
    path = client_models.save(tmp_path, models(10))
    assert path.name == "round-000010.pt"
    assert set(torch.load(path, weights_only=True)) == {
        *("round", "clients", "examples", "start", "updates", "result", "checksum")
    }
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
    (tmp_path / file_names.CLIENT_MODELS).mkdir()
    torch.save({"round": 1}, tmp_path / file_names.CLIENT_MODELS / "round-000001.pt")
    with pytest.raises(UserError, match="lacks clients"):
        client_models.load(tmp_path, 1)
    with pytest.raises(UserError):
        client_models.load(tmp_path, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"round": 5}, "it is not of round 4"),
        ({"updates": []}, "it is not of round 4"),
        ({"clients": [3]}, "it does not say whose models it holds"),
        ({"clients": ["3", "5"]}, "it does not say whose models it holds"),
        ({"examples": [10, True]}, "it does not say whose models it holds"),
        ({"result": {}}, "a model has no weights"),
        ({"start": {"v": torch.ones(2)}}, "a model has no weights"),
        ({"start": {"w": torch.ones(3)}}, "w"),
    ],
)
def test_models_of_another_round_or_of_nobody_are_refused(tmp_path, changes, words):
    written = client_models.save(tmp_path, replace(models(4), **changes))
    written.rename(written.with_name("round-000004.pt"))
    with pytest.raises(UserError, match=rf"round-000004\.pt is damaged: .*{words}"):
        client_models.load(tmp_path, 4)


def test_a_run_keeps_them_and_its_mean_is_their_mean(tiny, tmp_path):
    result = run(tiny(keep_clients_every=2, weight_decay=0.0), quiet=True)
    assert client_models.rounds(result.folder) == [2, 3]
    kept = client_models.load(result.folder, 3)
    mean = mean_of(kept.updates, kept.examples)
    assert all(torch.equal(kept.result[name], tensor) for name, tensor in mean.items())
    assert torch.equal(kept.start["head.weight"], client_models.load(result.folder, 2).result["head.weight"])
    plain = run(tiny(output=tmp_path / "plain", weight_decay=0.0), quiet=True)
    assert client_models.rounds(plain.folder) == []
    assert outcome(plain.folder) == outcome(result.folder), "keeping changes nothing"


@pytest.mark.parametrize("analysis", ["stability", "drift"])
def test_analyses_read_what_a_run_keeps(tiny, tmp_path, run_script, analysis):
    folder = run(tiny(keep_clients_every=1, rounds=2), quiet=True).folder
    done = run_script(f"experiments.analyses.{analysis}", folder, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / f"{analysis}.csv").read_text().count("\n") > 1
