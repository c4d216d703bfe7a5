"""Probes and their data."""

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from federated.config.run import RunConfig
from federated.data import sets as federated_data
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.probing import probe
from fps_pretrain.probing.probe_data import ProbeData, load_probe_data


def test_knn_separates_what_features_separate():
    """Bright against dark images: any encoder's features tell them apart; shuffled labels bring chance."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = (rng.integers(0, 60, (200, 16, 16, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    encoder = build_encoder("resnet20", seed=0)
    features = probe.extract_features(encoder, images)
    assert probe.knn_accuracy(features[:120], labels[:120], features[120:], labels[120:]) > 0.95
    assert encoder.training
    shuffled = rng.permutation(labels)
    assert 0.25 < probe.knn_accuracy(features[:120], shuffled[:120], features[120:], shuffled[120:]) < 0.75
    both = probe.probe(encoder, ProbeData("x", images[:120], labels[:120], images[120:], labels[120:]), linear=True)
    assert both["linear_accuracy"] > 0.95


def test_the_probe_is_reproducible_and_leaves_the_random_generator_alone():
    encoder = build_encoder("resnet20", seed=0)
    before = torch.get_rng_state()
    first = probe.probe(encoder, load_probe_data("digits", 16), linear=True)
    assert all(0.3 < value < 1.0 for value in first.values())
    assert probe.probe(encoder, load_probe_data("digits", 16), linear=True) == first
    assert torch.equal(before, torch.get_rng_state())


def test_the_digits_of_the_probe_are_not_those_a_federation_is_tested_on():
    test = federated_data.load(RunConfig(dataset="digits")).test.images
    size = test.shape[1]
    data = load_probe_data("digits", size)
    unseen = {image.tobytes() for image in test}
    bank, queries = ({image.tobytes() for image in images} for images in (data.bank_images, data.images))
    assert len(bank) > 1000
    assert len(queries) > 300
    # scikit-learn's digits hold a few doubles; whole test images among them would be hundreds
    assert len(unseen & (bank | queries)) < 5
    assert len(bank & queries) < 5


def labelled_images(count=40):
    rng = np.random.default_rng(1)
    return rng.integers(0, 255, (count, 20, 30, 3), dtype=np.uint8), np.arange(count) % 4


def test_probe_data_from_an_image_folder_and_from_parquet(tmp_path):
    images, labels = labelled_images()
    cells = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for split in ("train", "test"):
            folder = tmp_path / "folders" / split / "abcd"[label]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{i}.png"), image if split == "train" else image * 0)
        cells.append({"bytes": cv2.imencode(".png", image)[1].tobytes(), "path": None})
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"img": cells, "label": labels}), tmp_path / "table" / "train.parquet")
    for name in ("folders", "table"):
        data = load_probe_data(str(tmp_path / name), 16)
        assert data.name == name
        assert data.bank_images.shape == (30, 16, 16, 3)
        assert data.images.shape == (10, 16, 16, 3)
        assert data.images.any(axis=(1, 2, 3)).all()  # those of the test folder are black
        assert set(data.labels) == {0, 1, 2, 3}
    fewer = load_probe_data("digits", 16, share=0.1)
    assert (len(fewer.bank_labels), len(fewer.labels)) == (500, 100)


@pytest.mark.parametrize("make", ["missing", "empty", "one class", "few"])
def test_unusable_probe_data_is_refused(tmp_path, make):
    folder = tmp_path / "data"
    if make != "missing":
        folder.mkdir()
    for name, count in {"one class": {"a": 30}, "few": {"a": 2, "b": 30}}.get(make, {}).items():
        (folder / name).mkdir()
        for i in range(count):
            cv2.imwrite(str(folder / name / f"{i}.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="--probe-data"):
        load_probe_data(str(folder), 16)
