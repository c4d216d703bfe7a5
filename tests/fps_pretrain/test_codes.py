import math

import numpy as np
import pytest

from fps_pretrain.fractals import codes, recipe
from fps_pretrain.fractals.rng import stream


def test_singular_values_obey_the_constraints():
    sigma_factors = {2: [], 3: [], 4: []}
    for k in range(9000):
        n = 2 + k % 3
        values = codes.sample_singular_values(stream(0, 1, k, 0), n)
        assert values.shape == (n, 2)
        assert (values[:, 1] >= 0).all()
        assert (values[:, 0] >= values[:, 1] - 1e-12).all()
        assert (values[:, 0] <= 1 + 1e-12).all()
        sigma_factors[n].append((values[:, 0] + 2 * values[:, 1]).sum())
    for n, factors in sigma_factors.items():
        low, high = (5 + n) / 2, (6 + n) / 2
        assert low <= min(factors) < low + 0.01
        assert high - 0.01 < max(factors) <= high
        assert np.mean(factors) == pytest.approx((low + high) / 2, abs=0.02)


def test_codes_have_the_sampled_singular_values():
    """The linear parts are rotations around the sampled values: numpy's SVD finds the same."""
    for k in range(300):
        code = codes.sample_code(stream(0, 1, k, 0))
        n = len(code)
        assert n in (2, 3, 4)
        found = np.linalg.svd(code[:, :, :2], compute_uv=False)
        assert (5 + n) / 2 - 1e-9 <= (found[:, 0] + 2 * found[:, 1]).sum() <= (6 + n) / 2 + 1e-9
        assert (np.abs(code[:, :, 2]) <= 1).all()
        for linear, expected in zip(code[:, :, :2], found, strict=True):
            ours = codes.singular_values(*linear.ravel())
            assert ours == pytest.approx(expected, abs=1e-9)


def test_number_of_maps_and_orientations_are_uniform():
    sampled = [codes.sample_code(stream(5, 1, k, 0)) for k in range(6000)]
    sizes = np.bincount([len(c) for c in sampled])[2:]
    assert (np.abs(sizes - 2000) < 150).all()
    mirrored = np.concatenate([np.linalg.det(c[:, :, :2]) < 0 for c in sampled])
    assert mirrored.mean() == pytest.approx(0.5, abs=0.02)


def test_a_class_is_a_function_of_seed_and_number():
    assert np.array_equal(codes.class_code(3, 999_999), codes.class_code(3, 999_999))
    assert not np.array_equal(codes.class_code(3, 1)[0], codes.class_code(4, 1)[0])
    assert not np.array_equal(codes.class_code(3, 1)[0], codes.class_code(3, 2)[0])


def test_degenerate_draws_are_never_a_class():
    """Some draws collapse to a few cells; the class is then a later draw, and always has an extent.

    (Not always 14 cells of 16 x 16 again: where map 0 hardly contracts, the walk starts far out and one point spoils
    the scale, as in the recipe.)
    """
    counts = np.empty((16, 16), np.int32)
    replaced = 0
    for k in range(3000):
        first = codes.sample_code(stream(0, 1, k, 0))
        used = codes.class_code(0, k)
        replaced += not np.array_equal(first[0], used[0])
        assert codes.hit_counts(codes.chaos_game(used, 1000, stream(0, 9, k, 0)), 16, counts) >= 8
    assert 0 < replaced < 300


@pytest.mark.parametrize("exploding", [True, False])
def test_exploding_and_collapsed_walks_count_no_cells(exploding):
    code = np.zeros((2, 2, 3))
    if exploding:
        code[:, 0, 0] = code[:, 1, 1] = 1.5
        code[1, :, 2] = 1.0
    walk = codes.chaos_game(code, 500, stream(0, 0, 0, 0))
    assert codes.hit_counts(walk, 32, np.empty((32, 32), np.int32)) == 0


def test_the_walk_starts_at_the_fixed_point_of_map_0_and_stays_on_the_attractor():
    """Every point of the Sierpinski triangle's walk has no common binary digit in its coordinates."""
    sierpinski = np.array([[[0.5, 0, tx], [0, 0.5, ty]] for tx, ty in ((0, 0), (0.5, 0), (0, 0.5))])
    walk = codes.chaos_game(sierpinski, 20_000, stream(1, 0, 0, 0))
    x, y = (walk * 64).astype(int).T
    assert not (x & y).any()
    visited = len(set(zip(x.tolist(), y.tolist(), strict=True)))
    assert visited == 3**6


def test_the_fern_has_its_known_extent():
    """Barnsley's fern fills about [-2.18, 2.66] x [0, 9.99] (its stem has no area, so |det| never draws it)."""
    fern = np.array(
        [
            [[0.85, 0.04, 0.0], [-0.04, 0.85, 1.6]],
            [[0.20, -0.26, 0.0], [0.23, 0.22, 1.6]],
            [[-0.15, 0.28, 0.0], [0.26, 0.24, 0.44]],
            [[0.0, 0.0, 0.0], [0.0, 0.16, 0.0]],
        ]
    )
    walk = codes.chaos_game(fern, 50_000, stream(2, 0, 0, 0))
    assert walk[:, 0].min() == pytest.approx(-2.18, abs=0.25)
    assert walk[:, 0].max() == pytest.approx(2.66, abs=0.25)
    assert walk[:, 1].max() == pytest.approx(9.99, abs=0.1)


def test_maps_are_chosen_in_proportion_to_their_area():
    """Two maps without overlap, areas 3 : 1: the walk lands in the first's image three times as often."""
    code = np.array([[[0.75, 0, 0], [0, 0.4, 0]], [[0.25, 0, 0.75], [0, 0.4, 0]]])
    walk = codes.chaos_game(code, 40_000, stream(3, 0, 0, 0))
    assert (walk[:, 0] < 0.75).mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("mode", range(len(recipe.JITTERS)))
def test_jitter_stays_in_the_unit_ball_and_keeps_what_its_mode_keeps(mode):
    changed = 0
    for k in range(400):
        code = codes.class_code(0, k)
        varied = codes.jitter_code(code, mode, stream(0, 7, k, 0))
        if np.array_equal(varied, code):
            continue
        changed += 1
        assert np.linalg.svd(varied[:, :, :2], compute_uv=False).max() <= 1 + 1e-9
        name = recipe.JITTERS[mode]
        if name == "basic":
            different = [i for i in range(len(code)) if not np.array_equal(code[i], varied[i])]
            assert len(different) == 1
            ratio = varied[different[0]] / code[different[0]]
            assert ratio == pytest.approx(ratio[0, 0])
            assert 0.8 <= ratio[0, 0] <= 1.1
        elif name == "fractaldb":
            assert len({(i, j) for _, i, j in np.argwhere(code != varied)}) == 1
        else:
            assert np.array_equal(varied[:, :, 2], code[:, :, 2])
            before = np.linalg.svd(code[:, :, :2], compute_uv=False)
            after = np.linalg.svd(varied[:, :, :2], compute_uv=False)
            assert (after <= before * 1.1 + 1e-9).all()
            assert (after >= before * 0.8 - 1e-9).all() or not np.allclose(before[:, 0], before[:, 1], atol=0.2)
    assert (changed > 100) == (recipe.JITTERS[mode] != "none")


def test_sval_keeps_the_rotations_and_svd_turns_them():
    code = np.array([[[0.8, 0.0, 0.1], [0.0, 0.3, 0.2]], [[0.5, 0.0, 0.0], [0.0, -0.2, 0.0]]])
    sval = codes.jitter_code(code, recipe.JITTER_SVAL, stream(0, 7, 0, 0))
    assert sval[:, 0, 1] == pytest.approx(0, abs=1e-12)
    assert math.copysign(1, sval[1, 1, 1]) == -1
    svd = codes.jitter_code(code, recipe.JITTER_SVD, stream(0, 7, 0, 0))
    assert np.abs(svd[:, 0, 1]).max() > 1e-3
