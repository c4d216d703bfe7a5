"""Accuracy of frozen encoders: on the validation split, by what they were, or with statistics of the bank's images."""

import csv
from dataclasses import replace

import pytest
import torch

from experiments import probe
from federated.config.run import RunConfig
from federated.data import sets
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.probing.probe import extract_features, knn_accuracy

RUN = RunConfig(arch="resnet8", dataset="digits", limit_train=300, image_size=8, validation=0.3, threads=1)


@pytest.fixture
def encoder():
    """One whose BatchNorm's statistics are those of no images."""
    encoder = build_encoder("resnet8", seed=3)
    with torch.no_grad():
        for name, buffer in encoder.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(2.0)
    return encoder


def test_validation_images_are_classified_and_test_images_are_not_looked_at(encoder, tmp_path, monkeypatch, capsys):
    save_encoder(tmp_path / "odd.pt", encoder, "resnet8", 1, {})
    data = sets.load(RUN)
    monkeypatch.setattr(sets, "load", lambda config: replace(data, test=None))
    rows = {}
    for statistics in ("checkpoint", "data"):
        config = probe.ProbeConfig((str(tmp_path / "odd.pt"),), neighbours=5, bn_statistics=statistics, run=RUN)
        assert probe.main(config) == 0
        (rows[statistics],) = csv.DictReader(capsys.readouterr().out.splitlines())
    bank, queries = (extract_features(encoder, part.images) for part in (data.train, data.validation))
    expected = knn_accuracy(bank, data.train.labels, queries, data.validation.labels, 5)
    assert rows["checkpoint"] == {
        **{"init": "odd", "seed": "0", "dataset": "digits", "bank": "210", "queries": "90"},
        **{"knn_accuracy": f"{expected:.4f}", "linear_accuracy": rows["checkpoint"]["linear_accuracy"]},
    }
    assert float(rows["data"]["knn_accuracy"]) > expected + 0.05, "its own statistics are of no use"
