import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from fps_pretrain.fractals.augment import blur as blurring
from fps_pretrain.fractals.augment import colour, crop, view
from fps_pretrain.fractals.augment.scratch import empty_view_scratch
from fps_pretrain.fractals.batched import augment as batched_augment
from fps_pretrain.fractals.compose.colours import pack, unpack
from fps_pretrain.fractals.recipe_numbers import ViewNumbers
from tests.fps_pretrain.fractals.test_codes import key

NUMBERS = ViewNumbers()


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def planes(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1).astype(np.float32) / 255)


def contrast(planes, factor):
    colour.contrast(planes, factor, np.empty(32, np.float32))


def blur(planes, sigma):
    blurring.blur5(planes, sigma, np.empty(1024, np.float32))


@pytest.mark.parametrize(
    ("ours", "theirs", "factor"),
    [
        (colour.brightness, TF.adjust_brightness, 1.3),
        (contrast, TF.adjust_contrast, 0.65),
        (contrast, TF.adjust_contrast, 1.4),
        (colour.saturation, TF.adjust_saturation, 0.6),
        (colour.saturation, TF.adjust_saturation, 1.4),
        (colour.hue, TF.adjust_hue, -0.1),
        (colour.hue, TF.adjust_hue, 0.07),
        (colour.hue, TF.adjust_hue, 0.5),
        (blur, lambda x, s: TF.gaussian_blur(x, [5, 5], [s, s]), 0.4),
        (blur, lambda x, s: TF.gaussian_blur(x, [5, 5], [s, s]), 2.0),
    ],
)
def test_each_operation_is_torchvisions(planes, ours, theirs, factor):
    expected = theirs(torch.from_numpy(planes.copy()), factor).numpy()
    result = planes.copy()
    ours(result, factor)
    assert np.abs(result - expected).max() < 2e-3


def test_grayscale_is_torchvisions(planes):
    expected = TF.rgb_to_grayscale(torch.from_numpy(planes.copy()), 3).numpy()
    colour.grayscale(planes)
    assert np.abs(planes - expected).max() < 1e-3


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (90, 61, 32), (20, 31, 48)])
def test_crop_is_torchvisions_resized_crop(height, width, size):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    scratch, flips = empty_view_scratch(width, size), 0
    for k in range(30):
        top, left, h, w = crop.crop_box(height, width, NUMBERS, key(k, 0, 0, 0))
        out = np.empty((3, size, size), np.float32)
        crop.resized_crop(pack(image), NUMBERS, key(k, 0, 0, 0), scratch, out)
        tensor = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)
        expected = TF.resized_crop(tensor, top, left, h, w, [size, size], antialias=False).numpy()
        flipped = np.abs(out - expected).max() > 1e-3
        flips += flipped
        assert np.abs(out - (expected[:, :, ::-1] if flipped else expected)).max() < 2e-4
    assert 5 < flips < 25


def test_crop_boxes_have_the_recipes_scales_and_ratios():
    boxes = np.array([crop.crop_box(224, 224, NUMBERS, key(k, 0, 0, 0)) for k in range(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left + width <= 224).all()
    area = height * width / 224**2
    assert area.min() == pytest.approx(0.2, abs=0.01)
    assert area.max() > 0.97
    ratio = width / height
    assert ratio.min() == pytest.approx(3 / 4, abs=0.02)
    assert ratio.max() == pytest.approx(4 / 3, abs=0.02)


def test_probabilities_of_grayscale_and_blur(image):
    out, scratch = np.empty((3, 32, 32), np.float32), empty_view_scratch(32, 32)
    grey = 0
    for k in range(2000):
        view.augment(pack(image), NUMBERS, key(k, 0, 0, 0), scratch, out)
        pixels = out * np.float32(view.IMAGENET_STD)[:, None, None] + np.float32(view.IMAGENET_MEAN)[:, None, None]
        grey += np.ptp(pixels, axis=0).max() < 1e-4
        assert pixels.min() > -1e-3
        assert pixels.max() < 1 + 1e-3
    assert grey / 2000 == pytest.approx(0.2, abs=0.03)


def test_packing_is_undone_by_unpacking(image):
    assert np.array_equal(unpack(pack(image)), image)


@pytest.mark.parametrize(("shape", "box"), [((36, 300), (0, 132, 36, 36)), ((301, 35), (133, 0, 35, 35))])
def test_where_no_crop_fits_it_is_the_largest_square_in_the_middle(shape, box):
    """A fifth of such an image is no crop of a side ratio of up to 4 : 3."""
    keys = [key(k, 0, 0, 0) for k in range(20)]
    assert {crop.crop_box(*shape, NUMBERS, one) for one in keys} == {box}
    boxes = batched_augment.crop_boxes(*shape, NUMBERS, torch.tensor([int(one.astype(np.int64)) for one in keys]))
    assert {tuple(map(int, values)) for values in zip(*boxes, strict=True)} == {box}
