import dataclasses
import errno

import cv2
import numpy as np
import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pairs import PreviewConfig
from fps_pretrain.fractals.code_file import write_codes
from fps_pretrain.fractals.codes import fill_code_table
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.fractals.recipe_numbers import CodeNumbers
from fps_pretrain.pairs import gallery
from fps_pretrain.pairs.gallery import preview
from fps_pretrain.pairs.sources import FractalSource

CHANGES = {
    "size": 48,
    "classes": 9,
    "objects": (1, 1),
    "colour": "jitter",
    "jitter": "svd",
    "background": "diamond-square",
    "composed_views": 1,
    "pool": 64,
    "renders": "shared",
    "recipe_numbers": ("compose.scale_low=0.7",),
    "seed": 1,
    "output": None,
    "pairs": 5,
    "augment": False,
}


def codes_of_seed(seed, count):
    maps, sizes = np.empty((count, 4, 2, 3)), np.empty(count, np.int64)
    fill_code_table(CodeNumbers(), seed, 0, maps, sizes)
    return maps, sizes


def written(folder, **options):
    preview(PreviewConfig(**({"output": folder, "pairs": 4} | options)))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(PreviewConfig)])
def test_every_field_has_an_effect(field, tmp_path):
    baseline = written(tmp_path / "a")
    assert baseline == written(tmp_path / "again")
    if field == "output":
        return  # the two folders above are it
    if field == "codes":
        write_codes(tmp_path / "codes.npz", *codes_of_seed(7, 100))
    changed = tmp_path / "codes.npz" if field == "codes" else CHANGES[field]
    assert written(tmp_path / "b", **{field: changed}) != baseline


def test_the_seeds_own_codes_from_a_file_give_the_same_pairs(tmp_path):
    write_codes(tmp_path / "codes.npz", *codes_of_seed(0, 500))
    from_file = written(tmp_path / "a", codes=tmp_path / "codes.npz")
    assert from_file == written(tmp_path / "b", classes=500)
    assert written(tmp_path / "c", codes=tmp_path / "codes.npz", classes=50) == written(tmp_path / "d", classes=50)


def test_the_files_show_what_training_sees_of_its_first_pairs(tmp_path):
    files = written(tmp_path / "a", pairs=3, seed=2)
    trained_on = FractalSource(make_recipe(32), seed=2).batch(0, 0, 3).numpy()
    for view, name in enumerate("ab"):
        for index, expected in enumerate(gallery.to_images(trained_on[view])):
            file = np.frombuffer(files[f"pair-{index:03d}-view-{name}.png"], np.uint8)
            np.testing.assert_array_equal(cv2.imdecode(file, cv2.IMREAD_COLOR_RGB), expected)


@pytest.mark.parametrize("before", ["nothing", "empty folder", "link"])
def test_a_full_disk_leaves_nothing_in_the_way(tmp_path, monkeypatch, before):
    folder = tmp_path / "a"
    if before == "link":
        (tmp_path / "b").mkdir()
        folder.symlink_to(tmp_path / "b")
    elif before == "empty folder":
        folder.mkdir()
    write = gallery.write_bytes_atomically

    def full_disk(path, content):
        if path.name == "sheet.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    there = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "write_bytes_atomically", full_disk)
        with pytest.raises(UserError, match=f"{folder} cannot be written: No space left on device"):
            written(folder)
    assert set(tmp_path.iterdir()) == there
    assert "sheet.png" in written(folder)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
