"""Probes, their data, the collapse alarm and the training page."""

import os
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from federated.config.run import RunConfig
from federated.data import sets as federated_data
from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.probing import probe, quality, training_page
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


def test_the_collapse_alarm_speaks_once_and_again_when_it_is_over(capsys):
    alarm = quality.CollapseAlarm(every=1, total_steps=100)

    def see(spread, step):
        trainer = SimpleNamespace(callback_metrics={"embedding_spread": spread}, global_step=step, is_global_zero=True)
        alarm.on_train_batch_end(trainer, None)
        return capsys.readouterr().err

    assert not any(see(0.05, step) for step in range(1, 20))  # a low start is usual without BatchNorm
    assert not see(0.9, 20)
    said = [see(0.02, step) for step in range(21, 26)]
    assert [bool(text) for text in said] == [False, False, True, False, False]
    assert "collapsed at step 23" in said[2]
    assert "--lr" in said[2]
    assert "spread again" in see(0.8, 26)


def test_the_log_of_a_resumed_run_is_one(tmp_path):
    for version, text in enumerate(["step,loss\n0,5\n1,4\n2,3\n3,9\n", "step,loss\n2,2.5\n3,2\n", "ste"]):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    rows, unreadable = training_page.read_log(tmp_path, "csv")
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 5), (1, 4), (2, 2.5), (3, 2)]
    assert not unreadable


def test_one_cell_that_is_no_number_costs_that_cell_only(tmp_path):
    folder = tmp_path / "csv" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_bytes(b"step,loss,lr\n0,5,0.1\n1,4.\xff\x00,0.2\n2,3,0.3\nx,2,0.4\n")
    rows, unreadable = training_page.read_log(tmp_path, "csv")
    assert rows == [{"step": 0, "loss": 5, "lr": 0.1}, {"step": 1, "lr": 0.2}, {"step": 2, "loss": 3, "lr": 0.3}]
    assert unreadable == 2


def test_the_training_page_is_one_file_with_curves_and_neighbours(tmp_path):
    views = np.random.default_rng(0).normal(size=(2, 30, 3, 16, 16)).astype(np.float32)
    order = np.stack([np.roll(np.arange(30), -i) for i in range(30)])
    order[0] = order[0][::-1]  # the first view finds its partner last
    neighbours = training_page.Neighbours(views, order)
    assert neighbours.retrieval == pytest.approx(29 / 30)
    sheet = cv2.imdecode(np.frombuffer(neighbours.png(), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (10 * 72 + 8, 8 * 72 + 24, 3)
    frame = (sheet == (60, 140, 0)).all(axis=2)
    assert not frame[:72].any()
    assert frame[72:].any()

    for name, text in {
        "csv": "step,pairs_seen,loss,data_wait,lr\n0,8,5,0.25,\n1,16,4,0.5,0.!\n",
        "probes": "step,pairs_seen,knn_accuracy,pair_retrieval\n1,16,0.625,0.5\n",
    }.items():
        (tmp_path / name / "version_0").mkdir(parents=True)
        (tmp_path / name / "version_0" / "metrics.csv").write_text(text)
    config = PretrainConfig(epochs=1, pairs_per_epoch=16, batch_size=8, run_dir=tmp_path).resolve(has_gpu=False)
    page = training_page.write_page(
        tmp_path, config, neighbours, "digits", {"knn_accuracy": 0.375, "pair_retrieval": 0}
    )
    text = page.read_text()
    for words in ("62.5%", "37.5%", "4.000", "50%", "16 of 16 pairs", "96.7%", "1 values of the log are no"):
        assert words in text
    assert len(re.findall("data:image/png;base64,", text)) == 2
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    assert table[0].split(",")[:2] == ["step", "pairs_seen"]
    assert len(table) == 1 + 2 + 2
