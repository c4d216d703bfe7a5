"""Probes and their data."""

import os

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
from tests.fps_pretrain.images.encoded import grey, png_header, write_table


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


def test_labels_of_a_table_are_numbered_by_value(tmp_path):
    """However large they are: 10**12 would otherwise be as many classes."""
    images, labels = labelled_images()
    cells = [cv2.imencode(".png", image)[1].tobytes() for image in images]  # plain bytes
    values = np.array([-5, 0, 10**12, 2**62])[labels]
    write_table(tmp_path / "train.parquet", pa.array(cells), values)
    data = load_probe_data(str(tmp_path), 16)
    assert set(data.labels) == {0, 1, 2, 3}
    assert len(data.bank_labels) == 30


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("text", "cannot be read as Parquet"),
        ("truncated", "cannot be read as Parquet"),
        ("null", "its cell holds no encoded bytes"),
        ("device", "is not inside"),
        ("giant", "100000 x 100000 pixels"),
        ("loop", "leads back to a folder above it"),
        ("fifo", "is not a regular file"),
    ],
)
def test_damaged_probe_data_are_one_line(tmp_path, damage, words):
    """The reader is that of federations, and so are its refusals."""
    path = tmp_path / "train.parquet"
    bad = {"null": None, "device": {"bytes": None, "path": "/dev/zero"}, "giant": png_header(100_000, 100_000)}
    cells = [{"bytes": grey(), "path": None}] * 40
    if damage in ("loop", "fifo"):
        (tmp_path / "train" / "cat").mkdir(parents=True)
        if damage == "loop":
            (tmp_path / "train" / "cat" / "loop").symlink_to("..")
        else:
            os.mkfifo(tmp_path / "train" / "cat" / "1.png")
    else:
        write_table(path, [bad[damage]] * 40 if damage in bad else cells, np.arange(40) % 4)
    if damage == "text":
        path.write_text("img,label\n")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=words) as refused:
        load_probe_data(str(tmp_path), 16)
    assert "\n" not in str(refused.value)


def unit(similarity):
    """A feature of length 1 with this cosine similarity to (1, 0)."""
    return [similarity, (1 - similarity**2) ** 0.5]


@pytest.mark.parametrize(
    ("similarities", "classes", "neighbours", "predicted"),
    [
        ([0.9, 0.8, 0.8], [0, 1, 1], 20, 0),  # exp(9) is more than twice exp(8)
        ([0.9, 0.85, 0.85], [0, 1, 1], 20, 1),  # and less than twice exp(8.5)
        ([0.9, 0.85, 0.85], [0, 1, 1], 1, 0),
        ([0.9, 0.89, 0.88, 0.88], [2, 0, 1, 1], 3, 2),  # the fourth has no vote
    ],
)
def test_nearer_neighbours_have_more_of_a_vote(similarities, classes, neighbours, predicted):
    bank, query = torch.tensor([unit(s) for s in similarities]), torch.tensor([[1.0, 0.0]])
    for label in range(3):
        found = probe.knn_accuracy(bank, np.array(classes), query, np.array([label]), neighbours)
        assert found == (label == predicted)


def test_every_query_is_counted_once_however_many_there_are():
    classes = np.arange(1_500) % 4
    labels = np.where(np.arange(1_500) < 1_200, classes, 3 - classes)  # the last 300 are something else
    assert probe.knn_accuracy(torch.eye(4), np.arange(4), torch.eye(4)[classes], labels) == 0.8


def test_a_linear_probe_takes_features_of_any_scale():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = torch.from_numpy(np.stack([rng.normal(size=200), 1e-4 * (2 * labels - 1)], axis=1))
    assert probe.linear_accuracy(features[:120], labels[:120], features[120:], labels[120:]) == 1.0
