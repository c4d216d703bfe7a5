"""Keyed random numbers: no two of a run's draws are the same one."""

import itertools

import numpy as np
import torch

from fps_pretrain.fractals import jitter, render, rng
from fps_pretrain.fractals.augment import slots as augment_slots
from fps_pretrain.fractals.batched import rng as batched_rng
from fps_pretrain.fractals.compose import slots
from fps_pretrain.fractals.recipe import MAX_OBJECTS, make_recipe
from fps_pretrain.fractals.recipe_numbers import MAX_MAPS, CodeNumbers, ViewNumbers
from tests.fps_pretrain.fractals import reference, reference_images
from tests.fps_pretrain.fractals.reference_draws import SharedDraws


class RecordedDraws(SharedDraws):
    """Notes which slot of which key is drawn, or gives a key to something else."""

    def __init__(self, key, drawn=None):
        super().__init__(key)
        self.drawn = [] if drawn is None else drawn

    def uniform(self, slot, low=0.0, high=1.0):
        self.drawn.append((int(self.key), slot))
        return super().uniform(slot, low, high)

    def child(self, slot):
        self.drawn.append((int(self.key), slot))
        return RecordedDraws(rng.subkey(self.key, slot), self.drawn)


def assert_nothing_is_drawn_twice(draws, at_least):
    assert len(draws.drawn) >= at_least
    assert len(set(draws.drawn)) == len(draws.drawn)


def test_the_numbers_of_a_key_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, as Vigna's C code prints them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    key = np.uint64(1234567)
    assert [int(rng.subkey(key, slot)) for slot in range(4)] == expected
    assert [int(k) % 2**64 for k in batched_rng.subkeys(torch.tensor(1234567), torch.arange(4))] == expected
    for slot, output in enumerate(expected):
        assert rng.uniform(key, slot) == (output >> 11) / 2**53
        assert rng.integer(key, slot, 1000) == output * 1000 >> 64
        assert rng.chance(key, slot, (output + 2**12) / 2**64)
        assert not rng.chance(key, slot, (output - 2**12) / 2**64)


def test_every_part_of_what_a_key_is_for_makes_another_key():
    parts = list(itertools.product(range(3), range(1, 6), range(4), range(5)))
    keys = [int(np.uint64(rng.make_key(*part))) for part in parts]
    assert len(set(keys)) == len(parts)
    for seed, purpose, a in {part[:3] for part in parts}:
        batch = batched_rng.make_keys(seed, purpose, a, torch.arange(5))
        assert [int(k) % 2**64 for k in batch] == [keys[parts.index((seed, purpose, a, b))] for b in range(5)]


def test_a_pair_draws_no_number_twice():
    """16 objects on a background, in colours that may be shared by the views."""
    recipe = make_recipe(32, objects=(MAX_OBJECTS, MAX_OBJECTS))
    recipe = recipe._replace(points=40, compose=recipe.compose._replace(blur_probability=1.0))
    code = np.array([[[0.9, 0, 0], [0, 0.9, 0]], [[0.5, 0, 0.5], [0, 0.5, 0.5]]])
    draws = RecordedDraws(rng.make_key(0, rng.PAIR_STREAM, 0, 0))
    reference.pair(recipe, [code] * MAX_OBJECTS, draws)
    draws.uniform(slots.SLOT_COUNT)
    for k in range(1, MAX_OBJECTS):
        draws.uniform(slots.SLOT_OTHERS + k)
    for number in range(2):
        view = RecordedDraws(rng.subkey(draws.key, slots.SLOT_VIEWS + number), draws.drawn)
        for slot in (slots.SLOT_TEXTURE, slots.SLOT_AUGMENT):
            view.child(slot)
        for channel in range(3):
            view.uniform(slots.SLOT_TEXTURE_COLOUR + channel)
        for k in range(MAX_OBJECTS):
            RecordedDraws(rng.subkey(view.key, slots.SLOT_OBJECTS + k), draws.drawn).uniform(slots.SLOT_CHOICE)
    assert_nothing_is_drawn_twice(draws, 2 * MAX_OBJECTS * 20)


def test_an_image_draws_no_number_twice():
    """The jitter of singular values and rotations takes four numbers for each map, in each of its attempts."""
    draws = RecordedDraws(rng.make_key(0, rng.IMAGE_STREAM, 0, 0))
    for attempt in range(jitter.JITTER_TRIES):
        for number in range(4 * MAX_MAPS):
            draws.uniform(attempt * jitter.JITTER_SLOTS + number)
    draws.child(render.SLOT_WALK)
    for cell in range(10):
        draws.uniform(render.SLOT_PATCH + cell)
    assert_nothing_is_drawn_twice(draws, 75)


def test_a_code_draws_no_number_twice():
    draws = RecordedDraws(rng.make_key(0, rng.CODE_STREAM, 0, 0))
    reference_images.sample_code(CodeNumbers(min_maps=4), draws)
    assert_nothing_is_drawn_twice(draws, 2 + 7 + 4 * 6)


def test_an_augmentation_draws_no_number_twice():
    """Of a long image, of which no crop fits, so that all ten are tried."""
    draws = RecordedDraws(rng.make_key(0, rng.PAIR_STREAM, 0, 0))
    always = ViewNumbers(colour_probability=1.0, blur_probability=1.0)
    reference.augmented(np.zeros((16, 400, 3), np.uint8), always, draws, 16)
    draws.uniform(augment_slots.SLOT_TOP)
    draws.uniform(augment_slots.SLOT_LEFT)
    assert_nothing_is_drawn_twice(draws, 20 + 2 + 5 + 8)
