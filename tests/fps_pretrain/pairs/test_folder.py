"""Pre-training on a folder of images."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from fps_pretrain.common.errors import UserError
from fps_pretrain.fractals.augment.crop import crop_box
from fps_pretrain.fractals.batch import augment_pair, augmentation_key
from fps_pretrain.fractals.compose.colours import pack
from fps_pretrain.fractals.recipe_numbers import DEFAULT_VIEW_NUMBERS
from fps_pretrain.fractals.rng import PAIR_STREAM, make_key
from fps_pretrain.images.decode import read_image
from fps_pretrain.images.folder import list_images
from fps_pretrain.models import checkpoint
from fps_pretrain.pairs.crops import augmented_crop
from fps_pretrain.pairs.folder import FolderPairs
from fps_pretrain.pairs.gallery import to_images
from tests.conftest import assert_refused

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250), (250, 250, 250)]


@pytest.fixture
def folder(tmp_path):
    """Seven images of one colour each, in folders of two depths, of different sizes and formats."""
    for i, colour in enumerate(COLOURS):
        where = tmp_path / "images" / ("deep/er" if i % 2 else "flat")
        where.mkdir(parents=True, exist_ok=True)
        image = np.full((20 + i, 30, 3), colour, np.uint8)
        cv2.imwrite(str(where / f"{i}.{'JPEG' if i % 3 else 'png'}"), image[:, :, ::-1])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def filled(pairs, epoch, first, count):
    return pairs.batch(epoch, first, count).numpy()


def test_every_image_comes_once_before_any_comes_again(folder):
    pairs = FolderPairs(folder, 16, seed=0)
    assert len(pairs.paths) == 7
    for epoch in (0, 1):
        for start in (0, 7):
            assert len({pairs.path_of(epoch, i) for i in range(start, start + 7)}) == 7
    orders = {tuple(pairs.path_of(e, i) for i in range(s, s + 7)) for e in (0, 1) for s in (0, 7)}
    other = FolderPairs(folder, 16, seed=1)
    orders.add(tuple(other.path_of(0, i) for i in range(7)))
    assert len(orders) == 5  # of every epoch, of every pass in it, and of every seed


def test_a_pair_depends_on_its_key_alone(folder):
    pairs = FolderPairs(folder, 16, seed=0)
    whole = filled(pairs, 0, 0, 10)
    np.testing.assert_array_equal(filled(FolderPairs(folder, 16, seed=0), 0, 4, 3), whole[:, 4:7])
    assert not np.array_equal(filled(pairs, 1, 0, 10), whole)
    assert not np.array_equal(filled(FolderPairs(folder, 16, seed=1), 0, 0, 10), whole)


def test_both_views_are_crops_of_one_image(folder):
    pairs = FolderPairs(folder, 16, seed=0)
    out = filled(pairs, 0, 0, 70)
    images = to_images(out.reshape(-1, 3, 16, 16)).reshape(2, 70, 16, 16, 3)
    assert images.std(axis=(2, 3)).max() < 1  # crops of one colour are of one colour
    agree = 0
    for i in range(70):
        true = read_image(pairs.path_of(0, i))[0, 0].astype(float) - 128
        agree += all(np.abs(images[v, i, 0, 0] - 128.0 - true).max() < 130 for v in range(2))
    assert agree > 35  # what is neither grey nor shifted in hue keeps its colour


PLAIN = DEFAULT_VIEW_NUMBERS._replace(
    colour_probability=0.0, grey_probability=0.0, blur_probability=0.0, mirror_probability=0.0
)
"""Crops, and nothing else."""


def view_key(index):
    return np.uint64(augmentation_key(np.uint64(make_key(0, PAIR_STREAM, 0, index)), 0))


@pytest.mark.parametrize("shape", [(150, 150), (200, 45), (50, 41), (36, 300)])
def test_crops_that_are_shrunk_are_torchvisions_with_antialiasing(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    shrunk = []
    for mirror in (0.0, 1.0):
        for index in range(20):
            top, left, height, width = crop_box(*shape, PLAIN, view_key(index))
            shrunk.append(max(height, width) > 32)
            expected = TF.resized_crop(planes, top, left, height, width, [32, 32], antialias=True).float() / 255
            expected = TF.normalize(expected, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).numpy()
            made = augmented_crop(image, 32, PLAIN._replace(mirror_probability=mirror), view_key(index))
            made = made[..., ::-1] if mirror else made
            np.testing.assert_allclose(made, expected, atol=0.012 if shrunk[-1] else 0.02)  # a value of 255 is 0.018
    assert any(shrunk)


def test_a_photo_of_noise_is_grey_at_the_size_of_a_view(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (512, 512, 1), dtype=np.uint8).repeat(3, 2) * 255
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    pairs = FolderPairs(tmp_path, 32, seed=0, numbers=PLAIN._replace(crop_low=1.0, crop_ratio=1.0))
    views = to_images(filled(pairs, 0, 0, 2).reshape(-1, 3, 32, 32)) / 255
    assert np.abs(views.mean() - 0.5) < 0.01
    assert views.std() < 0.03  # one pixel of 256 for each of a view's has a deviation of 0.5


def test_crops_no_larger_than_the_view_are_those_of_fractals():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for index in range(10):
        key = np.uint64(make_key(0, PAIR_STREAM, 0, index))
        expected = augment_pair(np.stack([pack(image)] * 2), key)
        for view in range(2):
            made = augmented_crop(image, 32, DEFAULT_VIEW_NUMBERS, np.uint64(augmentation_key(key, view)))
            np.testing.assert_array_equal(made, expected[view])


def test_unreadable_images_and_empty_folders_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        FolderPairs(tmp_path / "empty", 16, 0)
    pairs = FolderPairs(folder, 16, seed=0)
    for path in list_images(folder):
        (folder / path).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"not an image that OpenCV can decode"):
        filled(pairs, 0, 0, 1)


@pytest.mark.parametrize("change", ["renamed", "replaced", "removed"])
def test_a_folder_that_has_changed_is_described_differently(folder, change):
    before = FolderPairs(folder, 16, seed=0).description()
    assert FolderPairs(folder, 16, seed=0).description() == before
    image = next((folder / "flat").iterdir())
    if change == "renamed":
        image.rename(image.with_stem("other"))
    elif change == "replaced":
        cv2.imwrite(str(image), np.zeros((50, 60, 3), np.uint8))
    else:
        image.unlink()
    assert FolderPairs(folder, 16, seed=0).description() != before


def test_the_program_trains_on_a_folder_and_names_what_is_wrong_with_it(folder, run_script, tmp_path, probe_data):
    command = ["run_pretrain.py", "--source", f"folder:{folder}", "--epochs", 1, "--pairs-per-epoch", 16]
    command += ["--batch-size", 8, "--size", 16, "--workers", 1, "--probe-data", probe_data]
    done = run_script(*command, "--run-dir", tmp_path / "run", "--output", tmp_path / "a.pt")
    assert done.returncode == 0, done.stderr
    recipe = checkpoint.read_file(tmp_path / "a.pt")["provenance"]["recipe"]
    assert (recipe["source"], recipe["images"]) == ("folder", 7)

    (tmp_path / "a.pt").unlink()
    extra = folder / "extra.png"
    extra.write_bytes((folder / list_images(folder)[0]).read_bytes())
    assert_refused_last(
        run_script(*command, "--run-dir", tmp_path / "run", "--output", tmp_path / "a.pt"), "something else"
    )
    for path in list_images(folder)[1:]:
        (folder / path).write_bytes(b"torn")
    done = run_script(*command, "--run-dir", tmp_path / "new", "--output", tmp_path / "b.pt")
    assert_refused_last(done, "not an image that OpenCV can decode")
    assert_refused(run_script(*command, "--objects", 2, 3), "--objects")


def assert_refused_last(done, words):
    """Exit code 2, and the last line says why; what was announced before stands above it."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr.strip().splitlines()[-1]
