import colorsys

import cv2
import numpy as np
import pytest

from fps_pretrain.fractals import codes, recipe, render
from fps_pretrain.fractals.rng import stream

SIERPINSKI = np.array([[[0.5, 0, tx], [0, 0.5, ty]] for tx, ty in ((0, 0), (0.5, 0), (0, 0.5))])


def _counts(code, points, side, key=0):
    counts = np.empty((side, side), np.int32)
    codes.hit_counts(codes.chaos_game(code, points, stream(key, 0, 0, 0)), side, counts)
    return counts


def test_sierpinski_renders_with_its_hole():
    counts = _counts(SIERPINSKI, 100_000, 65)
    for corner in (counts[:3, :3], counts[-3:, :3], counts[:3, -3:]):
        assert corner.sum() > 0
    assert counts[24:31, 24:31].sum() == 0  # inside the central hole
    assert counts[33:, 33:].sum() == 0  # beyond the hypotenuse


def test_points_fill_the_image_with_x_to_rows():
    wide = np.array([[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, 3.0], [0, 0.5, 0.0]], [[0.5, 0, 0], [0, 0.5, 0.01]]])
    counts = _counts(wide, 50_000, 32)
    assert counts.any(axis=1)[[0, 31]].all()
    assert counts.any(axis=0)[[0, 31]].all()
    # 2 * 0.25 of the area is at low x, so the low rows get two thirds of the points.
    assert counts[:16].sum() > 1.8 * counts[16:].sum()


@pytest.mark.parametrize("patch", [1, 0b000010000, 0b101010101, 511])
def test_stamping_is_what_a_loop_over_hits_does(patch):
    counts = _counts(codes.class_code(0, 4), 300, 24)
    expected = np.zeros((26, 26))
    cells = [(c // 3, c % 3) for c in range(9) if patch >> c & 1]
    for y, x in np.argwhere(counts):
        for dy, dx in cells:
            expected[y + dy, x + dx] += counts[y, x]
    expected = expected[1:-1, 1:-1]
    image = np.empty((24, 24), np.float32)
    render.stamp(counts, patch, image)
    assert image == pytest.approx(expected / expected.max(), abs=1e-6)


def test_no_render_is_blank_and_all_are_grey_in_0_1():
    counts, image = np.empty((32, 32), np.int32), np.empty((32, 32), np.float32)
    lit = []
    for k in range(3000):
        render.render(codes.class_code(0, k), recipe.JITTER_BASIC, 1000, counts, image, stream(0, 2, k, 0))
        assert image.max() == 1.0
        assert image.min() >= 0.0
        lit.append((image > 0).sum())
    assert min(lit) >= 8


def test_colours_are_opencvs():
    hues = np.arange(256)
    for saturation, value in ((77, 128), (200, 255), (255, 180)):
        ours = np.array([render.hsv_to_rgb(int(h), saturation / 255, value / 255) for h in hues])
        hsv = np.stack([hues % 180, np.full(256, saturation), np.full(256, value)], axis=1).astype(np.uint8)
        theirs = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(int)
        assert np.abs(ours - theirs).max() <= 1


def test_colour_table_has_one_saturation_one_value_and_shifted_hues():
    table = np.empty((256, 3), np.float32)
    for key in range(50):
        shift = 5.0 * key
        render.colour_table(shift, stream(key, 0, 0, 0), table)
        hue, saturation, value = np.array([colorsys.rgb_to_hsv(*(c / 255)) for c in table]).T
        assert np.ptp(value) < 1e-6
        assert 0.5 - 1 / 255 <= value[0] <= 1
        assert saturation.min() >= 0.3 - 2 / 128
        assert np.ptp(saturation) < 3 / 128
        expected = ((np.arange(256) + int(shift)) % 256) % 180 / 180
        assert np.minimum(np.abs(hue - expected), 1 - np.abs(hue - expected)).max() < 0.02


@pytest.mark.parametrize("size", [16, 32, 100])
def test_diamond_square_is_a_smooth_texture(size):
    texture = render.diamond_square(size, stream(1, 0, 0, 0))
    assert texture.shape == (size, size)
    assert texture.min() == 0.0
    assert texture.max() == pytest.approx(1.0)
    neighbours = np.abs(np.diff(texture, axis=0)).mean()
    shuffled = np.random.default_rng(0).permutation(texture.ravel()).reshape(size, size)
    assert neighbours < 0.6 * np.abs(np.diff(shuffled, axis=0)).mean()
