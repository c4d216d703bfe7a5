import cv2
import numpy as np
import pytest
import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.fractals.batched.codes import code_table
from fps_pretrain.fractals.batched.compose import compose as compose_batch
from fps_pretrain.fractals.codes import SEEDED_CODES
from fps_pretrain.fractals.compose import choose, pairs, paste
from fps_pretrain.fractals.compose.colours import pack, unpack
from fps_pretrain.fractals.compose.scratch import empty_scratch
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.fractals.recipe_numbers import GROUPS
from fps_pretrain.fractals.rng import make_key, uniform


def compose(recipe, index=0, seed=0, epoch=0):
    return unpack(pairs.composed(recipe, seed, epoch, index)[0])


def shown(recipe, index, seed=0, epoch=0):
    return pairs.composed(recipe, seed, epoch, index)[2]


def requested(seed, epoch, index, num_classes):
    offset, stride = choose.epoch_order(seed, epoch, num_classes)
    return (offset + index * stride) % num_classes


def test_the_papers_numbers():
    small, large = make_recipe(32), make_recipe(224)
    assert (small.points, small.render_side, small.min_objects, small.max_objects) == (1_000, 32, 2, 2)
    assert (large.points, large.render_side, large.min_objects, large.max_objects) == (100_000, 112, 2, 5)
    assert small.num_classes == 100_000
    for size, points, side, objects, images in ((64, 4_000, 64, (2, 2), 32), (66, 8_681, 33, (2, 5), 4)):
        recipe = make_recipe(size)
        assert (recipe.points, recipe.render_side, recipe.pool_images) == (points, side, images)
        assert (recipe.min_objects, recipe.max_objects) == objects


@pytest.mark.parametrize("num_classes", [1, 2, 7, 100, 1000])
def test_every_class_comes_equally_often_in_an_epoch(num_classes):
    asked = [requested(0, 3, i, num_classes) for i in range(2 * num_classes)]
    assert np.array_equal(np.bincount(asked, minlength=num_classes), np.full(num_classes, 2))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(requested(s, e, i, 1000) for i in range(8)) for e in range(20) for s in (0, 1)}
    assert len(orders) == 40


@pytest.mark.parametrize("pool", [0, 8, 64])
def test_a_pair_shows_the_requested_class_and_different_others(pool):
    recipe = make_recipe(32, objects=(2, 5), num_classes=50, pool=pool)
    for index in range(200):
        classes = shown(recipe, index)
        assert classes[0] == requested(0, 0, index, 50)
        assert 2 <= len(classes) <= 5
        assert len(set(classes)) == len(classes)


def test_the_others_are_uniform():
    recipe = make_recipe(32, objects=(3, 3), num_classes=10)
    counts = np.bincount([k for index in range(2000) for k in shown(recipe, index)], minlength=10)
    assert (np.abs(counts - 600) < 90).all()


def test_a_pool_shares_its_blocks_images():
    """Without jitter of place and colour, the same image of a class is seen in both views, and across its block."""
    recipe = make_recipe(32, num_classes=1000, pool=16)
    order = choose.epoch_order(0, 0, 1000)
    block = {(order[0] + i * order[1]) % 1000 for i in range(16, 32)}
    for index in range(16, 32):
        assert set(shown(recipe, index)) <= block
    keys = [int(choose.image_key(recipe, 0, 0, 20, 5, np.uint64(own))) for own in range(50)]
    assert len(set(keys)) == 1  # one image of a class that the block requests once
    assert int(choose.image_key(recipe, 0, 0, 31, 5, np.uint64(7))) == keys[0]
    assert int(choose.image_key(recipe, 0, 0, 32, 5, np.uint64(7))) != keys[0]


def test_a_pool_has_an_image_for_every_request_of_a_class():
    recipe = make_recipe(32, num_classes=5, pool=60)
    keys = {int(choose.image_key(recipe, 0, 0, 3, 2, np.uint64(make_key(0, 0, k, 0)))) for k in range(400)}
    assert len(keys) == 12
    few = make_recipe(32, num_classes=2, pool=200)
    keys = {int(choose.image_key(few, 0, 0, 3, 1, np.uint64(make_key(0, 0, k, 0)))) for k in range(2000)}
    assert len(keys) == 32  # the released code keeps no more of a class


def silhouette(view):
    """Where an object is, within its bounding box."""
    lit = view.any(axis=-1)
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("batched", [False, True])
def test_shared_renders_show_one_image_in_both_views(batched):
    """White objects of one size that are neither turned, blurred nor cut off have the shape of their image."""
    plain = {"compose.turn_probability": 0, "compose.blur_probability": 0, "compose.overhang": 0}
    plain |= {"compose.scale_low": 0.75, "compose.scale_high": 0.75, "image.value_low": 1, "image.value_high": 1}
    plain |= {"image.saturation_low": 0, "image.saturation_high": 0}

    def alike(renders):
        recipe = make_recipe(32, objects=(1, 1), renders=renders, numbers=plain)
        made = [compose(recipe, index) for index in range(30)]
        if batched:
            table = code_table(recipe, SEEDED_CODES, 0, torch.device("cpu"))
            made = list(unpack(compose_batch(recipe, table, 0, 0, torch.arange(30))[0].transpose(0, 1).numpy()))
        return sum(np.array_equal(silhouette(a), silhouette(b)) for a, b in made)

    assert alike("shared") == 30
    assert alike("fresh") < 10


def test_a_shared_render_lasts_until_its_class_is_requested_again():
    recipe = make_recipe(32, num_classes=50, renders="shared")
    keys = {
        (e, i, k): int(choose.image_key(recipe, 0, e, i, k, np.uint64(9)))
        for e in (0, 1)
        for i in (0, 49, 50)
        for k in (3, 4)
    }
    assert keys[0, 0, 3] == keys[0, 49, 3]  # any pair of the block
    assert len(set(keys.values())) == 8  # another class, block or epoch is another image
    others = {int(choose.image_key(recipe, 0, 0, 0, 3, np.uint64(own))) for own in range(20)}
    assert others == {keys[0, 0, 3]}  # whatever object shows it


def test_no_view_is_blank():
    recipe = make_recipe(32)
    for index in range(3000):
        assert (compose(recipe, index) > 0).any(axis=-1).sum(axis=(1, 2)).min() > 5


def scratch_for(size, colours):
    scratch = empty_scratch(make_recipe(size))
    packed = colours.astype(np.uint64)
    scratch.table[0] = 0
    scratch.table[1:] = packed[:, 0] | (packed[:, 1] << np.uint64(21)) | (packed[:, 2] << np.uint64(42))
    return scratch


@pytest.mark.parametrize("orientation", range(8))
def test_paste_is_opencvs_bilinear_resize_of_the_oriented_image(orientation):
    rng = np.random.default_rng(orientation)
    grey_image = rng.integers(1, 257, (32, 32)).astype(np.uint16)
    colours = rng.integers(1, 256, (256, 3))
    view = np.zeros((64, 64), np.uint32)
    paste.paste(grey_image.ravel(), 21, 10, 20, orientation, scratch_for(64, colours), view)
    image = colours[grey_image - 1].astype(np.uint8)
    if orientation & 1:
        image = image.transpose(1, 0, 2)
    if orientation & 2:
        image = image[::-1]
    if orientation & 4:
        image = image[:, ::-1]
    expected = cv2.resize(np.ascontiguousarray(image), (21, 21), interpolation=cv2.INTER_LINEAR)
    pasted = unpack(view)
    assert np.abs(pasted[10:31, 20:41].astype(int) - expected.astype(int)).max() <= 1
    pasted[10:31, 20:41] = 0
    assert not pasted.any()


def test_pasting_covers_only_with_non_black_pixels_and_may_overhang():
    grey_image = np.zeros((16, 16), np.uint16)
    grey_image[8:] = 256
    view = pack(np.full((32, 32, 3), 7, np.uint8))
    paste.paste(grey_image.ravel(), 16, -4, 24, 0, scratch_for(32, np.full((256, 3), 200)), view)
    pasted = unpack(view)
    assert (pasted[0:4, 24:] == 7).all()
    assert (pasted[4:12, 24:] == 200).all()
    assert (pasted[:, :24] == 7).all()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_opencvs(sigma):
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    view = pack(image)
    paste.blur3(view, sigma, np.empty((2, 400), np.float32))
    assert np.abs(unpack(view).astype(int) - cv2.GaussianBlur(image, (3, 3), sigma).astype(int)).max() <= 1


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
        ({"objects": (2, 17)}, "objects"),
        ({"num_classes": 1}, "classes"),
        ({"jitter": "much"}, "jitter"),
        ({"composed_views": 3}, "composed-views"),
        ({"pool": 1}, "pool"),
        ({"pool": -5}, "pool"),
        ({"renders": "stale"}, "renders must be one of fresh, shared"),
        ({"renders": "shared", "pool": 64}, "renders must be fresh with a pool"),
        ({"numbers": {"compose.scale": 0.3}}, "did you mean compose.scale_low or compose.scale_high"),
        ({"numbers": {"compose.scale_low": 0.8}}, r"compose.scale_low \(0.8\) must not exceed compose.scale_high"),
        ({"numbers": {"augment.grey_probability": 1.5}}, "augment.grey_probability must be in 0 .. 1"),
        ({"numbers": {"codes.max_maps": 3.5}}, "whole number"),
        ({"numbers": {"codes.max_maps": 5}}, "codes.max_maps must be in"),
    ],
)
def test_recipes_out_of_range_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        make_recipe(**options)


def test_the_default_of_every_number_is_in_its_range():
    defaults = {f"{group}.{name}": v for group, numbers in GROUPS.items() for name, v in numbers()._asdict().items()}
    assert make_recipe(32, numbers=defaults) == make_recipe(32)


def test_numbers_of_keys_are_uniform_and_independent():
    draws = np.array([[uniform(np.uint64(make_key(0, 2, 0, i)), slot) for slot in range(20)] for i in range(2000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.corrcoef(draws.T) - np.eye(20)).max() < 0.1
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.1
