import colorsys

import cv2
import numpy as np
import pytest

from fps_pretrain.fractals import render
from fps_pretrain.fractals.compose.colours import colour_table, draw_colours
from fps_pretrain.fractals.compose.texture import diamond_square
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.fractals.recipe_numbers import ImageNumbers
from tests.fps_pretrain.fractals.test_codes import class_code, hit_counts, key, padded

SIERPINSKI = np.array([[[0.5, 0, tx], [0, 0.5, ty]] for tx, ty in ((0, 0), (0.5, 0), (0, 0.5))])


def inner_counts(code, points, side):
    return hit_counts(code, points, side, key(0, 0, 0, 0))[1:-1, 1:-1]


def channels(table):
    """The 256 colours of a table of packed ones, (256, 3)."""
    return np.stack([(table[1:] >> np.uint64(shift)) & np.uint64(255) for shift in (0, 21, 42)], axis=1).astype(int)


def test_sierpinski_renders_with_its_hole():
    counts = inner_counts(SIERPINSKI, 100_000, 65)
    for corner in (counts[:3, :3], counts[-3:, :3], counts[:3, -3:]):
        assert corner.sum() > 0
    assert counts[24:31, 24:31].sum() == 0  # inside the central hole
    assert counts[33:, 33:].sum() == 0  # beyond the hypotenuse


def test_points_fill_the_image_with_x_to_rows():
    wide = np.array([[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, 3.0], [0, 0.5, 0.0]], [[0.5, 0, 0], [0, 0.5, 0.01]]])
    counts = inner_counts(wide, 50_000, 32)
    assert counts.any(axis=1)[[0, 31]].all()
    assert counts.any(axis=0)[[0, 31]].all()
    # 2 * 0.25 of the area is at low x, so the low rows get two thirds of the points.
    assert counts[:16].sum() > 1.8 * counts[16:].sum()


@pytest.mark.parametrize("patch", [1, 0b000010000, 0b101010101, 511])
def test_stamping_is_what_a_loop_over_hits_does(patch):
    counts = hit_counts(class_code(0, 4), 300, 24, key(0, 0, 0, 0))
    expected = np.zeros((28, 28), int)
    cells = [(c // 3, c % 3) for c in range(9) if patch >> c & 1]
    for y, x in np.argwhere(counts):
        for dy, dx in cells:
            expected[y + dy, x + dx] += counts[y, x]
    expected = expected[2:-2, 2:-2]
    grey_image = np.empty(24 * 24, np.uint16)
    flat = counts.ravel()
    render.stamp(flat, 24, patch, np.empty_like(flat), np.empty(24, np.int32), grey_image)
    grey = np.where(expected > 0, 1 + expected * 255 // expected.max(), 0)
    assert np.array_equal(grey_image.reshape(24, 24), grey)


def render_all(recipe, codes, keys):
    images = render.empty_images(recipe, len(codes))
    for k, code in enumerate(codes):
        images.codes[k], images.sizes[k], images.keys[k] = padded(code), len(code), keys[k]
    render.render(recipe, len(codes), images)
    return images.grey_images


def test_no_render_is_blank():
    grey_images = render_all(
        make_recipe(32), [class_code(0, k) for k in range(3000)], [key(0, 2, k, 0) for k in range(3000)]
    )
    assert (grey_images.max(axis=1) == 256).all()
    assert (grey_images > 0).sum(axis=1).min() >= 8
    # A code without any extent, which only a file of codes can hold.
    assert render_all(make_recipe(32), [np.zeros((2, 2, 3))], [key(0, 2, 0, 0)]).max() == 256


@pytest.mark.parametrize("size", [32, 160])
def test_an_image_does_not_depend_on_those_beside_it(size):
    recipe = make_recipe(size)
    codes, keys = [class_code(0, k) for k in range(40)], [key(0, 2, k, 0) for k in range(40)]
    together = render_all(recipe, codes, keys)
    for k in (0, 17, 39):
        assert np.array_equal(render_all(recipe, codes[k : k + 1], keys[k : k + 1])[0], together[k])


def test_cells_of_the_patch_are_independent():
    patches = [render.draw_patch(ImageNumbers(), key(0, 3, k, 0)) for k in range(8000)]
    assert min(patches) > 0
    on = np.array([[p >> cell & 1 for cell in range(9)] for p in patches])
    assert on.mean(axis=0) == pytest.approx(np.full(9, 0.5), abs=0.03)
    assert np.abs(np.corrcoef(on.T) - np.eye(9)).max() < 0.05


def test_colours_are_opencvs():
    table = np.empty(257, np.uint64)
    for saturation, value in ((77, 128), (200, 255), (255, 180)):
        colour_table(0.0, saturation / 255 + 1e-9, value / 255 + 1e-9, table)
        hsv = np.stack([np.arange(256) % 180, np.full(256, saturation), np.full(256, value)], axis=1).astype(np.uint8)
        theirs = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(int)
        assert np.abs(channels(table) - theirs).max() <= 1


def test_an_object_has_one_saturation_one_value_and_shifted_hues():
    table = np.empty(257, np.uint64)
    shifts = []
    for k in range(50):
        draw_colours(ImageNumbers(), key(k, 0, 0, 0), 1, key(k, 0, 0, 0), 1, table)
        colours = channels(table)
        hue, saturation, value = np.array([colorsys.rgb_to_hsv(*(c / 255)) for c in colours]).T
        assert np.ptp(value) < 1e-6
        assert 0.5 - 1 / 255 <= value[0] <= 1
        assert saturation.min() >= 0.3 - 2 / 128
        assert np.ptp(saturation) < 3 / 128
        candidates = (np.arange(256)[:, None] + np.arange(256)) % 256 % 180 / 180  # by shift, by level
        shift = np.abs(np.exp(2j * np.pi * hue) - np.exp(2j * np.pi * candidates)).sum(axis=1).argmin()
        expected = candidates[shift]
        assert np.minimum(np.abs(hue - expected), 1 - np.abs(hue - expected)).max() < 0.02
        shifts.append(shift)
    assert len(set(shifts)) > 30


@pytest.mark.parametrize("size", [16, 32, 100])
def test_diamond_square_is_a_smooth_texture(size):
    extent = 2 ** int(np.ceil(np.log2(size - 1))) + 1
    texture = np.empty((extent, extent), np.float32)
    diamond_square(size, key(1, 0, 0, 0), np.empty(extent * extent, np.uint32), texture)
    texture = texture[:size, :size]
    assert texture.min() == 0.0
    assert texture.max() == pytest.approx(1.0)
    neighbours = np.abs(np.diff(texture, axis=0)).mean()
    shuffled = np.random.default_rng(0).permutation(texture.ravel()).reshape(size, size)
    assert neighbours < 0.6 * np.abs(np.diff(shuffled, axis=0)).mean()
