from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from federated import load_classifier
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data import sets
from federated.results import exported
from federated.results.evaluation import evaluate
from federated.server.output import model_file
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.tensor_file import write_checkpoint
from tests.federated.conftest import TINY


def test_it_says_of_the_test_images_what_the_run_measured(config: RunConfig) -> None:
    test = sets.load(config).test
    said = load_classifier(config.folder)(test.images)
    right = np.mean([name == str(label) for name, label in zip(said.names, test.labels, strict=True)])
    assert right == RunFolder(config.folder).history()[-1]["test_accuracy"]
    assert said.probabilities.shape == (len(test), 10)
    assert np.allclose(said.probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("fields", [{"norm": "group"}, {"arch": "resnet32", "width": 2}, {"bn_stats": "local"}])
def test_models_of_every_kind(tmp_path: Path, fields: dict) -> None:
    config = RunConfig(**{**TINY, "rounds": 1, "output": tmp_path / "run", **fields})
    rows = run(config, quiet=True).history
    dataset = sets.load(config)
    classifier = load_classifier(config.folder)
    said = classifier(dataset.test.images)
    assert np.mean([int(name) for name in said.names] == dataset.test.labels) == rows[-1]["test_accuracy"]
    space = Workspace.build(config, dataset, [])
    space.model.load_state_dict(torch.load(config.folder / "model.pt", weights_only=True)["state_dict"])
    assert space.model.eval()(torch.ones(1, 3, 8, 8)).equal(classifier.module(torch.ones(1, 3, 8, 8)))


def test_arrays_files_and_pillows_images_are_the_same(config: RunConfig, photos: Path) -> None:
    classifier = load_classifier(config.folder)
    array = sets.load(config).test.images[0]
    file = photos / "00.png"
    several = classifier([array, file, str(file), Image.open(file), array[:, :, 0]]).probabilities
    assert (several == several[0]).all()  # digits are grey: all channels are equal
    assert np.allclose(classifier(file).probabilities, several[0], atol=1e-6)
    assert np.allclose(classifier(array).probabilities, several[0], atol=1e-6)
    assert np.allclose(classifier([array] * 5, batch_size=2).probabilities, several[0], atol=1e-6)
    assert len(classifier([])) == 0


def test_a_photo_of_another_size_is_resized_and_cropped(config: RunConfig) -> None:
    classifier = load_classifier(config.folder)
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200
    (prepared,) = classifier.prepare([image])
    assert prepared.shape == (8, 8, 3)
    assert (prepared == 200).all()


def test_a_photo_is_turned_the_way_its_camera_says(config: RunConfig, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    classifier = load_classifier(config.folder)
    by_path, by_pillow = classifier.prepare([tmp_path / "photo.png", Image.open(tmp_path / "photo.png")])
    assert (by_path == by_pillow).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8, 3)), "uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (Image.new("F", (8, 8)), "mode F"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused(config: RunConfig, image: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_classifier(config.folder)(image)  # type: ignore[arg-type]


def test_the_file_alone_is_enough(config: RunConfig, copied: Callable[[], Path], tmp_path: Path) -> None:
    image = sets.load(config).test.images[0]
    alone = (copied() / "model.pt").rename(tmp_path / "alone.pt")
    expected = load_classifier(config.folder)(image).probabilities
    assert (load_classifier(alone)(image).probabilities == expected).all()


def test_an_older_file_takes_its_image_size_from_the_configuration(
    config: RunConfig, copied: Callable[[], Path], tmp_path: Path
) -> None:
    folder = copied()
    content = torch.load(folder / "model.pt", weights_only=True)
    for name in ("norm", "image_size", "round"):
        del content[name]
    torch.save(content, folder / "model.pt")
    assert load_classifier(folder).image_size == config.image_size
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_classifier((folder / "model.pt").rename(tmp_path / "alone.pt"))


def test_an_unfinished_run_is_refused(copied: Callable[[], Path], tmp_path: Path) -> None:
    folder = copied()
    (folder / "model.pt").unlink()
    with pytest.raises(UserError, match="has not finished"):
        load_classifier(folder)
    with pytest.raises(UserError, match="is not a run"):
        load_classifier(tmp_path)
    with pytest.raises(UserError, match="is not a classifier"):
        load_classifier(folder / "state.pt")


@pytest.mark.parametrize(
    "change", [{"classes": ["a", "b"]}, {"arch": "resnet32"}, {"classes": None}, {"image_size": "x"}]
)
def test_a_damaged_file_is_refused(copied: Callable[[], Path], change: dict) -> None:
    folder = copied()
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save({**content, **change}, folder / "model.pt")
    with pytest.raises(UserError, match="is damaged"):
        load_classifier(folder)


@pytest.mark.parametrize(
    "change", [{"image_size": 0}, {"image_size": float("inf")}, {"norm": "weird"}, {"width": 10**9}, "nan", "name"]
)
def test_a_hostile_file_without_a_digest_is_refused(copied: Callable[[], Path], change: dict | str) -> None:
    folder = copied()
    content = torch.load(folder / "model.pt", weights_only=True)
    content.pop("digest", None)
    if isinstance(change, dict):
        content |= change
    elif change == "nan":
        content["state_dict"]["head.bias"].fill_(torch.nan)
    else:
        content["state_dict"][3] = content["state_dict"].pop("head.bias")
    torch.save(content, folder / "model.pt")
    with pytest.raises(UserError, match=r"is damaged|--width must be 1 to 64"):
        load_classifier(folder)


def test_the_best_round_is_a_run_folders_and_nobodys_own(config: RunConfig) -> None:
    with pytest.raises(UserError, match="name the run folder for its best round"):
        load_classifier(config.folder / "model.pt", best=True)
    with pytest.raises(UserError, match="--best does not go with --client"):
        load_classifier(config.folder, best=True, client=0)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_weight_that_was_changed_is_noticed(config: RunConfig, tmp_path: Path, suffix: str) -> None:
    """Also where the format has no checksums of its own."""
    path = tmp_path / f"model{suffix}"
    write_checkpoint(path, exported.find(config.folder, None, best=False, image_size=None).payload)
    load_classifier(path)
    content = bytearray(path.read_bytes())
    weight = model_file.read(path).weights["encoder.conv1.weight"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_classifier(path)


def test_other_names_for_the_classes(config: RunConfig) -> None:
    names = ["zero", *"123456789"]
    assert load_classifier(config.folder, classes=names).classes == tuple(names)
    with pytest.raises(UserError, match="2 class names do not fit"):
        load_classifier(config.folder, classes=["a", "b"])
    with pytest.raises(UserError, match="twice"):
        load_classifier(config.folder, classes=["a"] * 10)


def test_clients_that_keep_their_heads_have_a_classifier_each(tmp_path: Path) -> None:
    fields = {**TINY, "rounds": 1, "personal": "head", "bn_stats": "local", "participation": 0.7, "validation": 0.0}
    config = RunConfig(**{**fields, "output": tmp_path / "run"})
    row = run(config, quiet=True).history[-1]
    images, labels = sets.load(config).test.images, sets.load(config).test.labels
    for refused in (config.folder, config.folder / "model.pt"):
        with pytest.raises(UserError, match=r"model\.pt has no trained head, since clients kept theirs"):
            load_classifier(refused)
    assert evaluate(config) is None
    took_part = row["participants"]
    assert len(took_part) == 2
    for client in took_part:
        said = load_classifier(config.folder, client=client)(images)
        hits = np.array([int(name) for name in said.names]) == labels
        own = sets.load(config).train.labels[RunFolder(config.folder).load_partition()[client]]
        expected = np.mean([hits[labels == label].mean() for label in own if label in labels])
        assert row["client_accuracies"][client] == pytest.approx(expected, abs=1e-6)
    (other,) = {0, 1, 2} - set(took_part)
    for nobody in (other, 7, -1):
        with pytest.raises(UserError, match=f"has nothing of client {nobody}'s own"):
            load_classifier(config.folder, client=nobody)
    with pytest.raises(UserError, match="the models of clients are in a run folder"):
        load_classifier(config.folder / "model.pt", client=0)
    state = next((config.folder / "clients" / str(took_part[0])).iterdir())
    torch.save({"head": {"head.weight": torch.zeros(2, 2)}}, state)
    with pytest.raises(UserError, match=r"is not what client \d kept after round 1 of this run"):
        load_classifier(config.folder, client=took_part[0])


def test_a_run_without_clients_of_their_own_has_none(config: RunConfig) -> None:
    with pytest.raises(UserError, match="has nothing of client 0's own"):
        load_classifier(config.folder, client=0)
