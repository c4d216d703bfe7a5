import dataclasses

import pytest

from fps_pretrain.config import PreviewConfig
from fps_pretrain.gallery import preview

CHANGES = {
    "size": 48,
    "classes": 9,
    "objects": (1, 1),
    "colour": "jitter",
    "jitter": "svd",
    "background": "diamond-square",
    "composed_views": 1,
    "seed": 1,
    "output": None,
    "pairs": 5,
    "augment": False,
}


def written(folder, **options):
    preview(PreviewConfig(**({"output": folder, "pairs": 4} | options)))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(PreviewConfig)])
def test_every_field_has_an_effect(field, tmp_path):
    baseline = written(tmp_path / "a")
    assert baseline == written(tmp_path / "again")
    if field == "output":
        return  # the two folders above are it
    assert written(tmp_path / "b", **{field: CHANGES[field]}) != baseline
