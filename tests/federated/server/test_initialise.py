from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from flwr.app import ArrayRecord, RecordDict
from torch.nn import functional as F

from federated.client.evaluation import evaluate
from federated.client.statistics import class_sums
from federated.config.run import RunConfig
from federated.data.sets import load
from federated.server.run import RunFailed, run
from federated.server.start import client_statistics, initialise
from federated.server.start.initialise import centroid_head, initial_classifier, initial_encoder
from federated.weights import weights_of
from fps_pretrain.common.errors import UserError
from fps_pretrain.images.pixels import normalise
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.checksum import digest
from fps_pretrain.models.encoders import build_encoder
from tests.federated.conftest import outcome, run_quietly

Tiny = Callable[..., RunConfig]

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8))
LABELS = torch.arange(30) % 4


def test_torchvision_weights_come_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    published = torchvision.models.resnet18()
    (tmp_path / "checkpoints").mkdir()
    torch.save(published.state_dict(), tmp_path / "checkpoints" / Path(url).name)
    encoder, report = initial_encoder(RunConfig(init="torchvision:resnet18", arch="resnet18"))
    assert report is not None
    assert report.missing == []
    for name, tensor in published.state_dict().items():
        assert name.startswith("fc.") or torch.equal(encoder.state_dict()[name], tensor)


def test_torchvision_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        print("many words")
        raise OSError("no route\nand more")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        UserError, match=r"cannot download https://.*resnet18-.*; put it into .*checkpoints \(no route\)$"
    ):
        initial_encoder(RunConfig(init="torchvision:resnet18", arch="resnet18"))
    with pytest.raises(UserError, match="torchvision publishes no weights of that name"):
        initial_encoder(RunConfig(init="torchvision:resnet20"))


def test_timm_weights_are_loaded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[timm]'")
    published = timm.create_model("resnet18", pretrained=False)
    asked = []

    def create(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return published

    monkeypatch.setattr(initialise, "CACHE", tmp_path)
    monkeypatch.setattr(timm, "create_model", create)
    config = RunConfig(init="timm:resnet18.a1_in1k", arch="resnet18")
    for _ in range(2):
        encoder, report = initial_encoder(config)
        assert report is not None
        assert report.missing == []
        assert torch.equal(encoder.state_dict()["conv1.weight"], published.state_dict()["conv1.weight"])
    assert asked == [("resnet18.a1_in1k", True)]
    with pytest.raises(UserError, match="timm knows no such model"):
        initial_encoder(RunConfig(init="timm:resnet20.nobody"))


def test_without_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initialise, "CACHE", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[timm\]'"):
        initial_encoder(RunConfig(init="timm:resnet18", arch="resnet18"))


def test_random_weights_are_of_the_seed_or_of_the_one_that_is_named() -> None:
    def weights(init: str, seed: int) -> torch.Tensor:
        encoder, report = initial_encoder(RunConfig(arch="resnet8", init=init, seed=seed))
        assert report is None
        return encoder.conv1.weight

    assert torch.equal(weights("random:5", 0), weights("random", 5))
    assert torch.equal(weights("random:5", 0), weights("random:5", 1))
    assert not torch.equal(weights("random", 0), weights("random", 1))


def test_shuffled_weights_have_the_checkpoints_entries_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    learned = build_encoder("resnet20", seed=1)
    save_encoder(path, learned, "resnet20", 1, {"method": "simclr"})
    shuffled = [initial_encoder(RunConfig(init=f"shuffled:{path}", seed=seed))[0].state_dict() for seed in (0, 0, 1)]
    for name, tensor in learned.state_dict().items():
        first, again, other = (state[name] for state in shuffled)
        assert torch.equal(first.flatten().sort().values, tensor.flatten().sort().values)
        assert torch.equal(first, again)
        if tensor.ndim > 1:
            assert not torch.equal(first, tensor)
            assert not torch.equal(first, other)
    # Each tensor has an order of its own, so that shapes that come twice are not shuffled alike.
    twins = ["layer1.0.conv1.weight", "layer1.0.conv2.weight"]
    ranks = [
        torch.isin(shuffled[0][name].flatten(), learned.state_dict()[name].flatten()[:100]).nonzero() for name in twins
    ]
    assert not torch.equal(*ranks)
    with pytest.raises(UserError, match="names no checkpoint"):
        RunConfig(init="shuffled:")
    with pytest.raises(UserError, match="does not exist"):
        initial_encoder(RunConfig(init="shuffled:nowhere.pt"))


def test_the_folder_of_shuffled_weights_is_not_that_of_the_checkpoint() -> None:
    names = [RunConfig(init=init).folder.name for init in ("a/fps.pt", "shuffled:a/fps.pt", "timm:resnet20")]
    assert names == [f"digits-dirichlet0.3-{init}-s0" for init in ("fps", "shuffled-fps", "timm-resnet20")]


def test_centroid_head_is_that_of_the_pooled_examples() -> None:
    config = RunConfig(image_size=16)
    model = initial_classifier(config, initial_encoder(config)[0], 5)
    weights = weights_of(model)
    parts = [torch.arange(0, 7), torch.arange(7, 8), torch.arange(8, 30)]
    sums = [class_sums(model, weights, IMAGES[part], LABELS[part], 5, batch_size=4) for part in parts]
    built = centroid_head(weights, sums)
    # A few lines of reference: the mean feature of each class, of length one.
    model.load_state_dict(weights)
    model.eval()
    with torch.no_grad():
        features = model.get_submodule("encoder")(normalise(IMAGES))
    expected = F.normalize(torch.stack([features[label == LABELS].mean(0) for label in range(4)]), dim=1)
    torch.testing.assert_close(built["head.weight"][:4], expected, rtol=1e-4, atol=1e-5)
    assert not built["head.weight"][4].any()  # nobody has that class
    assert not built["head.bias"].any()
    assert all(torch.equal(built[name], weights[name]) for name in weights if name.startswith("encoder."))
    assert built["head.weight"].dtype == torch.float32
    # Whoever is alone with a class is classified like it.
    assert evaluate(model, built, IMAGES, LABELS, 8)[1] > 0.25


def test_a_client_cannot_count_more_than_it_has() -> None:
    like = {"counts": torch.zeros(2, dtype=torch.int64)}
    answers = [RecordDict({"arrays": ArrayRecord({"counts": torch.tensor([3, 4])})}) for _ in range(2)]
    assert [part["counts"].tolist() for part in client_statistics._read(answers, like, [4, 4])] == [[3, 4]] * 2
    with pytest.raises(RunFailed, match="client 1 does not answer as asked: sent a counts that cannot be"):
        client_statistics._read(answers, like, [100, 3])


def test_a_run_with_a_centroid_head(tiny: Tiny, tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.pt", build_encoder("resnet8", seed=1), "resnet8", 1, {"method": "simsiam"})
    fields = {"init": str(tmp_path / "encoder.pt"), "limit_train": 200, "limit_test": 100, "rounds": 1}
    fresh = run(tiny(output=tmp_path / "fresh", **fields), quiet=True)
    centroid = run(tiny(output=tmp_path / "centroid", head="centroid", **fields), quiet=True)
    assert centroid.history[0]["test_accuracy"] > fresh.history[0]["test_accuracy"] + 0.2
    record = yaml.safe_load((centroid.folder / "init.yaml").read_text())
    assert record["loaded"]["matched"] == 42
    assert record["provenance"]["method"] == "simsiam"
    assert record["encoder_sha256"] == digest(build_encoder("resnet8", seed=1).state_dict())
    other = yaml.safe_load((fresh.folder / "init.yaml").read_text())
    assert record["encoder_sha256"] == other["encoder_sha256"]
    assert record["data_sha256"] == other["data_sha256"] == load(tiny(**fields)).digest()
    assert record["head_sha256"] != other["head_sha256"]
    assert "simsiam" in (centroid.folder / "log.txt").read_text()


CLIENTS_ARE_ASKED: dict[str, Any] = {"head": "centroid", "init_statistics": "clients"}
"""Fields with which clients are asked before the first round."""


def test_what_clients_are_asked_first_is_the_same_from_workers(tiny: Tiny, tmp_path: Path) -> None:
    here = run_quietly(tiny(output=tmp_path / "here", rounds=1, **CLIENTS_ARE_ASKED))
    assert run_quietly(tiny(output=tmp_path / "workers", rounds=1, workers=2, **CLIENTS_ARE_ASKED)) == here


def test_an_encoder_that_does_not_take_such_images() -> None:
    with pytest.raises(UserError, match="--arch vit_b_16 does not take images of --image-size 32"):
        initial_encoder(RunConfig(arch="vit_b_16"))


def test_what_clients_are_asked_first_survives_an_interrupt_before_the_first_round(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_quietly(tiny(output=tmp_path / "whole", rounds=2, **CLIENTS_ARE_ASKED))
    from federated.algorithms import fedavg

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fedavg, "train_client", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(rounds=2, **CLIENTS_ARE_ASKED), quiet=True)
    assert outcome(run(tiny(rounds=2, **CLIENTS_ARE_ASKED), quiet=True).folder) == whole
