"""The torch code where pairs of the usual recipe do not lead it; test_reference.py compares those."""

import numpy as np
import pytest
import torch

from fps_pretrain.fractals.batched import chaos_game, render
from fps_pretrain.fractals.batched.choose import choose_objects
from fps_pretrain.fractals.batched.codes import code_table
from fps_pretrain.fractals.batched.compose import compose
from fps_pretrain.fractals.codes import SEEDED_CODES, Codes
from fps_pretrain.fractals.compose import choose, pairs, slots
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.fractals.rng import PAIR_STREAM, make_key, subkey
from tests.fps_pretrain.fractals.test_codes import key, take_walk
from tests.fps_pretrain.pairs.test_gallery import codes_of_seed

CPU = torch.device("cpu")


def one_by_one(recipe, seed, epoch, index, codes=SEEDED_CODES):
    """The views that the compiled code composes, (2, pairs, size, size)."""
    return np.stack([pairs.composed(recipe, seed, epoch, i, codes)[0] for i in index.tolist()], axis=1)


def test_the_codes_of_a_file_are_shown():
    codes, index = Codes(*codes_of_seed(9, 6)), torch.arange(5)
    recipe = make_recipe(32, num_classes=6)
    views = compose(recipe, code_table(recipe, codes, 3, CPU), 3, 0, index)[0].numpy()
    assert np.array_equal(views, one_by_one(recipe, 3, 0, index, codes))
    assert not np.array_equal(views, one_by_one(recipe, 3, 0, index))


@pytest.mark.parametrize("images", [1, 7])
def test_images_that_are_rendered_in_several_parts_are_the_same(images, monkeypatch):
    """On a GPU the points of many images are too many for its memory."""
    recipe, index = make_recipe(32), torch.arange(5)
    monkeypatch.setattr(render, "_POINTS_AT_ONCE", images * recipe.points + 1)
    views = compose(recipe, code_table(recipe, SEEDED_CODES, 0, CPU), 0, 0, index)[0]
    assert np.array_equal(views.numpy(), one_by_one(recipe, 0, 0, index))


def test_points_without_an_extent_are_one_cell_in_the_middle():
    """Six walks of four points: on a line, on another, in one place, beyond 1e6, endless; and one that is shown."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    flat_x, flat_y, far, endless = (corners.clone() for _ in range(4))
    flat_x[:, 0], flat_y[:, 1], far[3, 0], endless[3, 1] = 0.3, 0.3, 2e6, torch.nan
    walks = torch.stack([flat_x, flat_y, torch.zeros(4, 2), far, endless, corners], dim=-1)
    counts = chaos_game.count_hits(walks, 8)
    for grid in counts[:5]:
        assert grid.nonzero().tolist() == [[5, 5]]
        assert grid.sum() == 4
    assert counts[5].nonzero().tolist() == [[1, 1], [1, 8], [8, 1], [8, 8]]


@pytest.mark.parametrize("size", [32, 80])
def test_a_pool_has_as_many_images_of_a_class_as_the_compiled_code_has(size):
    recipe, index = make_recipe(size, objects=(2, 2), num_classes=5, pool=60), torch.arange(40, 80)
    objects = choose_objects(recipe, 1, 2, index)
    order = choose.epoch_order(1, 2, 5)
    expected = np.empty((2, 40, 2), np.uint64)
    scratch = pairs.empty_scratch(recipe)
    for number, i in enumerate(index.tolist()):
        pair_key = np.uint64(make_key(1, PAIR_STREAM, 2, i))
        for view in range(2):
            view_key = np.uint64(objects.view_keys[view, number].item() % 2**64)
            choose.choose_classes(recipe, order, i, pair_key, 0, scratch)
            assert scratch.classes[0].tolist() == objects.classes[number].tolist()
            for k in range(2):
                own = np.uint64(subkey(view_key, slots.SLOT_OBJECTS + k))
                expected[view, number, k] = choose.image_key(recipe, 1, 2, i, scratch.positions[0, k], own)
    assert np.array_equal(objects.images.numpy().astype(np.uint64), expected)


@pytest.mark.parametrize("batched", [False, True])
def test_maps_without_any_area_are_equally_likely(batched):
    """Each puts all points on a line of its own: x at 0, 1, 2 or 3, but for a tenth of what it was."""
    code = np.zeros((4, 2, 3))
    code[:, 0, 0], code[:, 0, 2] = 0.1, np.arange(4)
    if batched:
        walk = chaos_game.take_walks(torch.from_numpy(code[None]), torch.tensor([4]), 8_000, torch.tensor([7]))
        x = walk[:, 0, 0].numpy()
    else:
        x = take_walk(code, 8_000, key(7, 0, 0, 0))[:, 0]
    assert np.bincount(np.floor(x + 1e-5).astype(int), minlength=4) / 8_000 == pytest.approx(np.full(4, 0.25), abs=0.02)


def test_objects_have_at_least_one_pixel():
    tiny = {"compose.scale_low": 0.01, "compose.scale_high": 0.01, "compose.overhang": 0, "compose.blur_probability": 0}
    recipe, index = make_recipe(32, numbers=tiny), torch.arange(30)
    views = compose(recipe, code_table(recipe, SEEDED_CODES, 0, CPU), 0, 0, index)[0].numpy()
    assert np.array_equal(views, one_by_one(recipe, 0, 0, index))
    assert (views > 0).any(axis=(2, 3)).sum() > 5
    assert (views > 0).sum(axis=(2, 3)).max() == 2
