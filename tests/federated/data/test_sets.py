from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from federated.config.run import RunConfig
from federated.data import downloads
from federated.data import sets as data
from fps_pretrain.common.errors import UserError
from fps_pretrain.images.table import ImageTable
from tests.conftest import REPOSITORY
from tests.fps_pretrain.images.encoded import encoded, grey, write_table

CIFAR10 = Path(os.environ.get("FPS_CIFAR10", REPOSITORY.parent / "shared" / "data" / "cifar10"))


def test_digits() -> None:
    digits = data.load(RunConfig(validation=0.1))
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1293, 144, 360)
    assert digits.train.images.shape == (1293, 32, 32, 3)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 255
    assert digits.classes == tuple("0123456789")
    assert np.bincount(digits.test.labels).min() >= 35  # stratified


def test_subsets_and_validation_do_not_depend_on_the_seed() -> None:
    one, other = (data.load(RunConfig(limit_train=100, limit_test=30, seed=seed)) for seed in (1, 2))
    assert one.digest() == other.digest()
    assert (len(one.train), len(one.validation), len(one.test)) == (98, 2, 30)
    larger = data.load(RunConfig(limit_train=200, limit_test=30))
    assert one.digest() != larger.digest()


def test_a_subset_is_taken_from_all_over_the_data(tmp_path: Path) -> None:
    """The examples of a folder come class by class."""
    for split in ("train", "test"):
        for name, level in (("cat", 20), ("dog", 200)):
            write_images(tmp_path / split / name, level, count=20)
    limits: dict[str, Any] = {"limit_train": 20, "limit_test": 20}
    loaded = data.load(RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0, **limits))
    for subset in (loaded.train, loaded.test):
        assert len(subset) == 20
        assert 4 < subset.labels.sum() < 16
        np.testing.assert_array_equal(subset.images[:, 8, 8, 0], np.where(subset.labels == 1, 200, 20))
    limits = {"limit_train": 40, "limit_test": 40}  # all there are
    loaded = data.load(RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0, **limits))
    assert (len(loaded.train), len(loaded.test)) == (40, 40)


def test_the_digest_is_of_all_that_a_data_set_holds() -> None:
    images = np.arange(4 * 8 * 8 * 3).astype(np.uint8).reshape(4, 8, 8, 3)
    darker = images.copy()
    darker[3, 7, 7, 2] ^= 1

    def digest(images: np.ndarray = images, labels: str = "0101", who: str = "", held_out: int = 1) -> str:
        makers = np.array(list(who)) if who else None
        table = ImageTable(images, np.array([int(label) for label in labels]), makers)
        train, validation = table.take(np.arange(held_out, 4)), table.take(np.arange(held_out))
        return data.Dataset(train, validation, table.none(), ("a", "b")).digest()

    others = [
        digest(darker),
        digest(images.reshape(4, 4, 16, 3)),
        digest(labels="0100"),
        digest(who="abab"),
        digest(who="abba"),
        digest(held_out=2),
    ]
    assert digest() == digest(images.copy())
    assert len({digest(), *others}) == 7


@pytest.mark.parametrize(("flag", "fields"), [("train", {"limit_train": 2000}), ("test", {"limit_test": 2000})])
def test_limits_beyond_the_data(flag: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--limit-{flag} 2000 is more than"):
        data.load(RunConfig(**fields))


def test_validation_too_small_to_exist() -> None:
    with pytest.raises(UserError, match="--validation"):
        data.load(RunConfig(limit_train=10))


def test_folder(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                level = 200 if name == "dog" else 20
                image = np.full((20, 30, 3), level, np.uint8)
                (tmp_path / split / name / f"{number}.png").write_bytes(encoded(image))
    loaded = data.load(RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0))
    assert loaded.classes == ("cat", "dog")
    assert loaded.train.images.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(loaded.train.images[:, 8, 8, 0], [20, 20, 20, 200, 200, 200])
    (tmp_path / "val" / "dog" / "0.png").write_bytes(b"not an image")
    data._load.cache_clear()
    with pytest.raises(UserError, match="not an image"):
        data.load(RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0))
    with pytest.raises(UserError, match="must hold the folders train/ and test/"):
        data.load(RunConfig(dataset=f"folder:{tmp_path / 'train'}"))


def write_images(folder: Path, level: int, count: int = 1, extension: str = "png") -> None:
    """``count`` grey images of one level."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = Image.fromarray(np.full((20, 20), level, np.uint8))
        image.save(folder / f"{folder.parent.name}_{number}.{extension}", quality=95)


def test_one_class_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split / "cat", 20, count=4)
    with pytest.raises(UserError, match="has one class, cat: there is nothing to tell apart"):
        data.load(RunConfig(dataset=f"folder:{tmp_path}", validation=0.0))


def test_folder_with_who_made_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for who in ("ada", "ben"):
                write_images(tmp_path / split / label / who, 100)
    config = RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0, partition="natural", clients=2)
    loaded = data.load(config)
    assert loaded.train.user_ids is not None
    assert loaded.train.user_ids.tolist() == ["ada", "ben", "ada", "ben"]
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "train" / "cat" / "stray.png")
    data._load.cache_clear()
    with pytest.raises(UserError, match=r"stray\.png must lie in a folder that says who made it"):
        data.load(config)


def test_training_and_test_folders_hold_the_same_classes(tmp_path: Path) -> None:
    """As many are not enough: the labels of the others would be wrong."""
    for split, other in (("train", "dog"), ("test", "emu")):
        write_images(tmp_path / split / "cat", 20)
        write_images(tmp_path / split / other, 200)
    with pytest.raises(UserError, match=r"train and .*test do not hold the same classes"):
        data.load(RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0))


def test_of_several_folders_for_testing_the_one_called_test_is_taken(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1), ("valid", 4)):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, 100, count=count)
    config = RunConfig(dataset=f"folder:{tmp_path}", image_size=16, validation=0.0)
    assert (len(data.load(config).train), len(data.load(config).test)) == (6, 2)


def tiny_imagenet(root: Path) -> Path:
    """The layout of tiny-imagenet-200 with two classes."""
    root = root / "tiny-imagenet-200"
    for identifier, level in (("n02", 200), ("n01", 20)):
        write_images(root / "train" / identifier / "images", level, count=3, extension="JPEG")
    write_images(root / "val" / "images", 200, count=2, extension="JPEG")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tnewt\n")
    lines = [f"val_{number}.JPEG\t{who}\t0\t0\t9\t9" for number, who in enumerate(("n01", "n02"))]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    loaded = data.load(RunConfig(dataset="tiny-imagenet", data_dir=tmp_path, validation=0.0))
    assert loaded.classes == ("bullfrog", "goldfish")
    assert loaded.train.images.shape == (6, 64, 64, 3)
    np.testing.assert_array_equal(loaded.train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(loaded.train.images[:, 5, 5, 1], [200, 200, 200, 20, 20, 20], atol=2)
    np.testing.assert_array_equal(loaded.test.labels, [1, 0])
    (root / "words.txt").unlink()
    data._load.cache_clear()
    with pytest.raises(UserError, match=r"lacks words\.txt of tiny-imagenet-200"):
        data.load(RunConfig(dataset="tiny-imagenet", data_dir=root))


def test_what_nodes_hold_themselves(tmp_path: Path) -> None:
    write_images(tmp_path / "server" / "test" / "cat", 20)
    write_images(tmp_path / "server" / "test" / "dog", 200)
    config = RunConfig(dataset=f"folder:{tmp_path / 'server'}", image_size=16, partition="nodes", clients=2)
    server = data.load(config)
    assert (len(server.train), len(server.validation), len(server.test)) == (0, 0, 2)
    write_images(tmp_path / "node" / "train" / "dog", 200, count=3)
    train, test = data.load_of_node(tmp_path / "node", config, server.classes)
    np.testing.assert_array_equal(train.labels, [1, 1, 1])  # the run's label, though the node knows no cats
    assert len(test) == 0
    write_images(tmp_path / "node" / "test" / "cat", 20)
    assert data.load_of_node(tmp_path / "node", config, server.classes)[1].labels.tolist() == [0]
    write_images(tmp_path / "node" / "train" / "emu", 9)
    with pytest.raises(UserError, match="has the class emu, which is none of the run's: cat, dog"):
        data.load_of_node(tmp_path / "node", config, server.classes)
    (tmp_path / "tables").mkdir()
    with pytest.raises(UserError, match=r"neither train/ with one folder of images a class nor train\*\.parquet"):
        data.load_of_node(tmp_path / "tables", config, server.classes)
    write_table(tmp_path / "tables" / "train.parquet", [grey()], [1])
    train, test = data.load_of_node(tmp_path / "tables", config, server.classes)
    assert (train.labels.tolist(), len(test)) == ([1], 0)


def test_hub_reads_what_datasets_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": encoded(image), "path": None} for image in images], "label": [0, 1, 1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict(train=table, test=table.select([2]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    loaded = data.load(RunConfig(dataset="hub:someone/pets", image_size=16, validation=0.0))
    np.testing.assert_array_equal(loaded.train.images, images)
    np.testing.assert_array_equal(loaded.test.images[0], images[2])
    assert loaded.classes == ("cat", "dog")


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: Any, **__: Any) -> None:
        print("many words")
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"--dataset parquet:PATH \(no route\)$"):
        data.load(RunConfig(dataset="hub:someone/pets"))
    monkeypatch.setattr(downloads, "CACHE", tmp_path / "cache")
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", offline)
    with pytest.raises(UserError, match=r"cannot download cifar10; put train\.parquet and test\.parquet"):
        data.load(RunConfig(dataset="cifar10"))
    assert not (tmp_path / "cache").exists()


def test_a_directory_without_cifar(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold cifar100: put"):
        data.load(RunConfig(dataset="cifar100", data_dir=tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.fixture
def cifar10() -> Path:
    """A folder with all of CIFAR-10."""
    if not (CIFAR10 / "train.parquet").is_file():
        pytest.skip(f"CIFAR-10 is not in {CIFAR10}; name its folder in FPS_CIFAR10")
    return CIFAR10


CHANNEL_MEANS = [0.4914, 0.4822, 0.4465]
"""Published, of the training images; copies that were compressed as JPEG are 2e-4 away."""


@pytest.mark.promise
@pytest.mark.slow
def test_cifar10(cifar10: Path) -> None:
    cifar = data.load(RunConfig(dataset="cifar10", data_dir=cifar10))
    assert (len(cifar.train), len(cifar.validation), len(cifar.test)) == (49000, 1000, 10000)
    assert cifar.classes[0] == "airplane"
    np.testing.assert_array_equal(np.bincount(cifar.test.labels), [1000] * 10)
    means = np.concatenate([cifar.train.images, cifar.validation.images]).mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, CHANNEL_MEANS, atol=5e-4)


def test_the_first_images_of_cifar10(cifar10: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        with pyarrow.parquet.ParquetFile(cifar10 / f"{split}.parquet") as file:
            first = pyarrow.Table.from_batches([next(file.iter_batches(2000))])
            first = first.replace_schema_metadata(file.schema_arrow.metadata)
        pyarrow.parquet.write_table(first, tmp_path / f"{split}.parquet")
    cifar = data.load(RunConfig(dataset="cifar10", data_dir=tmp_path))
    assert (len(cifar.train), len(cifar.validation), len(cifar.test)) == (1960, 40, 2000)
    assert cifar.classes[0] == "airplane"
    np.testing.assert_allclose(np.bincount(cifar.test.labels), [200] * 10, atol=40)
    means = np.concatenate([cifar.train.images, cifar.validation.images]).mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, CHANNEL_MEANS, atol=0.02)
