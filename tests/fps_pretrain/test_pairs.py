import cv2
import numpy as np
import pytest

from fps_pretrain.config import PretrainConfig
from fps_pretrain.data import EpochSteps, FractalPairBatches, FractalPairs
from fps_pretrain.errors import UserError
from fps_pretrain.fractals import pairs
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.fractals.rng import stream


def compose(recipe, index=0, seed=0, epoch=0):
    views = np.empty((2, recipe.size, recipe.size, 3), np.uint8)
    pairs.compose_pair(recipe, seed, epoch, index, views)
    return views


def test_the_papers_numbers():
    small, large = make_recipe(32), make_recipe(224)
    assert (small.points, small.render_side, small.min_objects, small.max_objects) == (1_000, 32, 2, 2)
    assert (large.points, large.render_side, large.min_objects, large.max_objects) == (100_000, 112, 2, 5)
    assert small.num_classes == 100_000


@pytest.mark.parametrize("num_classes", [1, 2, 7, 100, 1000])
def test_every_class_comes_equally_often_in_an_epoch(num_classes):
    asked = [pairs.requested_class(0, 3, i, num_classes) for i in range(2 * num_classes)]
    assert np.array_equal(np.bincount(asked, minlength=num_classes), np.full(num_classes, 2))


def test_epochs_have_orders_of_their_own():
    orders = {tuple(pairs.requested_class(0, e, i, 1000) for i in range(8)) for e in range(20)}
    assert len(orders) == 20


def test_a_pair_shows_the_requested_class_and_different_others():
    recipe = make_recipe(32, objects=(2, 5), num_classes=50)
    for index in range(200):
        shown = pairs.pair_classes(recipe, 0, 0, index)
        assert shown[0] == pairs.requested_class(0, 0, index, 50)
        assert 2 <= len(shown) <= 5
        assert len(set(shown)) == len(shown)


def test_both_views_show_the_same_classes(monkeypatch):
    """compose_view is given the same classes for both views: seen through a plain-Python run of compose_pair."""
    seen = []

    def record(recipe, seed, classes, count, shifts, view, state):
        seen.append((classes[:count].tolist(), shifts[:count].tolist()))

    monkeypatch.setitem(pairs.compose_pair.py_func.__globals__, "compose_view", record)
    recipe = make_recipe(224)
    views = np.empty((2, 224, 224, 3), np.uint8)
    for index in range(20):
        pairs.compose_pair.py_func(recipe, 0, 0, index, views)
    assert all(seen[k] == seen[k + 1] for k in range(0, 40, 2))
    assert len({str(s[0]) for s in seen}) == 20


def test_no_view_is_blank():
    recipe = make_recipe(32)
    for index in range(3000):
        assert (compose(recipe, index) > 0).any(axis=-1).sum(axis=(1, 2)).min() > 5


@pytest.mark.parametrize("orientation", range(8))
def test_paste_is_opencvs_bilinear_resize_of_the_oriented_image(orientation):
    rng = np.random.default_rng(orientation)
    grey = (rng.random((32, 32)) ** 2).astype(np.float32)
    table = rng.integers(1, 256, (256, 3)).astype(np.float32)
    view = np.zeros((64, 64, 3), np.uint8)
    pairs.paste(grey, table, 21, 10, 20, orientation, view)
    image = table[(255 * grey).astype(int)].astype(np.uint8)
    if orientation & 1:
        image = image.transpose(1, 0, 2)
    if orientation & 2:
        image = image[::-1]
    if orientation & 4:
        image = image[:, ::-1]
    expected = cv2.resize(np.ascontiguousarray(image), (21, 21), interpolation=cv2.INTER_LINEAR)
    assert np.abs(view[10:31, 20:41].astype(int) - expected.astype(int)).max() <= 1
    view[10:31, 20:41] = 0
    assert not view.any()


def test_pasting_covers_only_with_non_black_pixels_and_may_overhang():
    grey = np.zeros((16, 16), np.float32)
    grey[8:] = 1.0
    table = np.full((256, 3), 200, np.float32)
    view = np.full((32, 32, 3), 7, np.uint8)
    pairs.paste(grey, table, 16, -4, 24, 0, view)
    assert (view[0:4, 24:] == 7).all()
    assert (view[4:12, 24:] == 200).all()
    assert (view[:, :24] == 7).all()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_opencvs(sigma):
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    ours = image.copy()
    pairs.blur3(ours, sigma)
    assert np.abs(ours.astype(int) - cv2.GaussianBlur(image, (3, 3), sigma).astype(int)).max() <= 1


def test_a_pair_is_a_function_of_its_key():
    recipe = make_recipe(32)
    assert np.array_equal(compose(recipe, 5), compose(recipe, 5))
    others = [compose(recipe, 6), compose(recipe, 5, seed=1), compose(recipe, 5, epoch=1)]
    assert all(not np.array_equal(compose(recipe, 5), other) for other in others)
    assert not np.array_equal(*compose(recipe, 5))


def test_one_composed_view_serves_both():
    assert np.array_equal(*compose(make_recipe(32, composed_views=1)))


def test_colour_jitter_mode_keeps_the_hue_of_a_class():
    """One object: the hues that both views use overlap far more when the class keeps its shift."""

    def hue_distance(colour):
        recipe = make_recipe(32, objects=(1, 1), colour=colour)
        distances = []
        for index in range(150):
            hues = []
            for view in compose(recipe, index):
                hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV).reshape(-1, 3)
                hues.append(np.bincount(hsv[hsv[:, 1] > 60, 0] // 10, minlength=18))
            a, b = (h / max(1, h.sum()) for h in hues)
            distances.append(np.abs(a - b).sum())
        return np.mean(distances)

    assert hue_distance("jitter") < 0.8 * hue_distance("random")


def test_background_fills_what_objects_leave():
    plain = compose(make_recipe(32))
    textured = compose(make_recipe(32, background="diamond-square"))
    assert (plain == 0).all(axis=-1).mean() > 0.2
    assert (textured == 0).all(axis=-1).mean() < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 8}, "size"),
        ({"size": 1000}, "size"),
        ({"objects": (0, 2)}, "objects"),
        ({"objects": (3, 2)}, "objects"),
        ({"num_classes": 1}, "classes"),
        ({"jitter": "much"}, "jitter"),
        ({"composed_views": 3}, "composed-views"),
    ],
)
def test_recipes_out_of_range_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        make_recipe(**options)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    config = PretrainConfig(batch_size=8, pairs_per_epoch=24, epochs=2, seed=3).resolve(has_gpu=False)
    data = FractalPairs(config, workers)
    data.trainer = type("Trainer", (), {"global_step": 0})()
    loader = data.train_dataloader()
    got = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        got += list(loader)
    reference = FractalPairBatches(make_recipe(32), 3, 8, 3)
    assert len(got) == 6
    for step, batch in enumerate(got):
        assert np.array_equal(batch, reference[step])


def test_a_resumed_epoch_leaves_out_what_was_done():
    sampler = EpochSteps(10, first_step=13)
    sampler.set_epoch(1)
    assert list(sampler) == list(range(13, 20))
    sampler.set_epoch(2)
    assert list(sampler) == list(range(20, 30))


def test_streams_are_uniform_and_independent():
    from fps_pretrain.fractals.rng import uniform

    draws = np.array([[uniform(s) for _ in range(20)] for s in (stream(0, 2, 0, i) for i in range(2000))])
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    correlation = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(correlation) < 0.1
