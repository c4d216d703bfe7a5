"""The compiled and the batched code against the reference: pixel by pixel, and by the statistics of 10,000 pairs."""

import json

import numpy as np
import pytest
import torch

from fps_pretrain.fractals import codes
from fps_pretrain.fractals.batch import augment_pair, augmentation_key
from fps_pretrain.fractals.batched import augment as batched_augment
from fps_pretrain.fractals.batched.codes import code_table
from fps_pretrain.fractals.batched.compose import compose
from fps_pretrain.fractals.batched.rng import subkeys
from fps_pretrain.fractals.codes import SEEDED_CODES, Codes
from fps_pretrain.fractals.compose.colours import unpack
from fps_pretrain.fractals.compose.pairs import composed as compose_one
from fps_pretrain.fractals.compose.slots import SLOT_AUGMENT
from fps_pretrain.fractals.recipe import make_recipe
from tests.fps_pretrain.fractals import reference
from tests.fps_pretrain.fractals.pair_statistics import LOOKS, compiled_maker, distances, statistics
from tests.fps_pretrain.fractals.reference_draws import SharedDraws

CPU = torch.device("cpu")
BOUND = 5.0
"""Standard errors. Of 250 statistics of the same pairs one is beyond it once in 10,000 times."""

BREAKS = {
    "codes.min_maps": 3,
    "codes.max_maps": 3,
    "codes.sigma_low": 5.5,
    "codes.sigma_high": 5.5,
    "image.jitter_low": 0.6,
    "image.jitter_high": 0.9,
    "image.cell_probability": 0.4,
    "image.hue_range": 220.0,
    "image.saturation_low": 0.4,
    "image.saturation_high": 0.9,
    "image.value_low": 0.6,
    "image.value_high": 0.9,
    "compose.turn_probability": 0.2,
    "compose.scale_low": 0.5,
    "compose.scale_high": 0.7,
    "compose.overhang": 0.15,
    "compose.blur_probability": 0.4,
    "compose.blur_low": 0.9,
    "compose.blur_high": 1.0,
    "augment.crop_low": 0.25,
    "augment.crop_high": 0.9,
    "augment.crop_ratio": 1.2,
    "augment.mirror_probability": 0.4,
    "augment.colour_probability": 0.7,
    "augment.brightness": 0.35,
    "augment.contrast": 0.3,
    "augment.saturation": 0.3,
    "augment.hue": 0.08,
    "augment.grey_probability": 0.25,
    "augment.blur_probability": 0.4,
    "augment.blur_low": 0.6,
    "augment.blur_high": 1.2,
}
"""Another value for every number of the recipe but one: translations, which no image shows (see below)."""

STRUCTURE = {
    "fewer points": {"points": 850},
    "a smaller image": {"render_side": 28},
    "another jitter": {"jitter": 4},
    "no jitter": {"jitter": 0},
    "one hue a class": {"colour": 1},
    "a background": {"background": 1},
    "one composed image": {"composed_views": 1},
    "more objects": {"max_objects": 3},
    "a shared image": {"pool": 1024},
    "a shared render": {"renders": 1},
}


def batched(recipe, seed, epoch, first, count):
    table = code_table(recipe, SEEDED_CODES, seed, CPU)
    return compose(recipe, table, seed, epoch, torch.arange(first, first + count))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"size": 32}, 60),
        ({"size": 32, "objects": (1, 4), "colour": "jitter"}, 30),
        ({"size": 32, "jitter": "none", "numbers": {"compose.overhang": 0.4, "image.cell_probability": 0.1}}, 30),
        ({"size": 50}, 12),
        ({"size": 80, "objects": (1, 2)}, 1),
        ({"size": 128, "objects": (2, 2)}, 1),
    ],
)
def test_every_pixel_is_the_references(options, count):
    """Compiled, batched and reference code draw the same numbers, so they must draw the same picture."""
    recipe = make_recipe(**options)
    table = Codes(np.empty((recipe.num_classes, 4, 2, 3)), np.empty(recipe.num_classes, np.int64))
    codes.fill_code_table(recipe.codes, 5, 0, *table)
    composed, keys = batched(recipe, 5, 1, 7, count)
    flat = composed.flatten(0, 1), recipe.augment, subkeys(keys.flatten(), SLOT_AUGMENT), recipe.size
    augmented = batched_augment.augment(*flat).unflatten(0, (2, count)).numpy()
    for i in range(count):
        views, key, classes = compose_one(recipe, 5, 1, 7 + i)
        of_classes = [table.maps[k][: table.sizes[k]] for k in classes]
        expected = reference.pair(recipe, of_classes, SharedDraws(key))
        assert np.array_equal(unpack(views), expected)
        assert np.array_equal(unpack(composed[:, i].numpy()), expected)
        compiled = augment_pair(views, key, numbers=recipe.augment)
        assert np.abs(augmented[:, i] - compiled).max() < 1e-4
        for view in range(2):
            draws = SharedDraws(augmentation_key(key, view))
            by_torchvision = reference.augmented(expected[view], recipe.augment, draws, recipe.size)
            assert np.abs(compiled[view] - by_torchvision).max() < 2e-3


@pytest.mark.parametrize(
    "options",
    [
        {"size": 32, "background": "diamond-square", "jitter": "fractaldb"},
        {"size": 64, "composed_views": 1, "jitter": "svd"},
        {"size": 32, "pool": 64, "num_classes": 20, "jitter": "sval"},
        {"size": 32, "pool": 64, "jitter": "sval"},
        {"size": 32, "renders": "shared", "num_classes": 60, "objects": (1, 4), "colour": "jitter"},
        {"size": 32, "renders": "shared", "composed_views": 1},
        {"size": 224},
    ],
)
def test_the_batched_code_is_the_compiled_code(options):
    recipe = make_recipe(**options)
    count = 2 if recipe.size == 224 else 40
    composed, keys = batched(recipe, 3, 2, 50, count)
    for i in range(count):
        views, key, _ = compose_one(recipe, 3, 2, 50 + i)
        assert np.array_equal(composed[:, i].numpy(), views)
        assert np.uint64(keys[0, i].item() % 2**64) == np.uint64(
            subkeys(torch.tensor(int(np.int64(key))), 64).item() % 2**64
        )


@pytest.fixture(scope="module")
def stored():
    content = json.loads(reference.STORED.read_text())
    return {part: {k: tuple(v) for k, v in content[part].items()} for part in ("all", "the first few")}


def test_the_stored_statistics_are_this_references(stored):
    """Changing the reference without writing its statistics again fails here."""
    again = statistics(reference.maker(seed=0), make_recipe(32), reference.FEW)
    assert set(again) == set(stored["all"]) == set(stored["the first few"])
    for name, (mean, _) in again.items():
        assert mean == pytest.approx(stored["the first few"][name][0], abs=1e-6), name


@pytest.mark.parametrize("count", [2_500, pytest.param(reference.PAIRS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("look", LOOKS)
def test_statistics_are_the_references(look, count, stored):
    apart = distances(statistics(compiled_maker(1), make_recipe(32), count, (look,)), stored["all"])
    assert max(apart.values()) < BOUND, max(apart, key=apart.get)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BREAKS) + list(STRUCTURE))
def test_a_change_of_any_number_of_the_recipe_is_seen(name, stored):
    if name in STRUCTURE:
        recipe = make_recipe(32)._replace(**STRUCTURE[name])
        looks = LOOKS[:3]
    else:
        recipe = make_recipe(32, numbers={name: BREAKS[name]})
        looks = LOOKS[3:] if name.startswith("augment.") else LOOKS[:3]
    for look in looks:
        apart = distances(statistics(compiled_maker(1), recipe, reference.PAIRS, (look,)), stored["all"])
        if max(apart.values()) > BOUND:
            return
    pytest.fail(f"no statistic is more than {BOUND} standard errors from the reference's")


def test_every_number_is_broken_once():
    from fps_pretrain.fractals.recipe_numbers import GROUPS

    known = {f"{group}.{name}" for group, numbers in GROUPS.items() for name in numbers._fields}
    assert set(BREAKS) == known - {"codes.translation"}


def test_no_image_shows_the_range_of_the_translations():
    """All maps' centres scale with it, and so does the attractor, which an image then scales to its own side."""
    for k in range(20):
        far = make_recipe(32, numbers={"codes.translation": 2.0})
        near = make_recipe(32)
        a, b = (compiled_maker(0).greys(recipe, k) for recipe in (near, far))
        assert (a != b).mean() < 0.02  # a point on the border of two cells may fall into the other one
