"""Curves of a training log as a picture."""

from __future__ import annotations

import pytest

from fps_pretrain.probing.curves import draw_curves


@pytest.mark.parametrize("name", [r"$\frac$", "$x", "\udcff", "_data", "{data}"])
def test_the_name_of_the_data_is_shown_as_it_is(name: str) -> None:
    """Not read as mathematics, and drawn though UTF-8 cannot hold it."""
    probes = [{"pairs_seen": float(pairs), "knn_accuracy": 0.5} for pairs in (0, 10)]
    assert draw_curves([], probes, name).startswith(b"\x89PNG")
