"""Curves of a training log as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from fps_pretrain.common import plots
from fps_pretrain.probing import curves
from fps_pretrain.probing.curves import draw_curves, read_log


@pytest.mark.parametrize("name", [r"$\frac$", "$x", "\udcff", "_data", "{data}"])
def test_the_name_of_the_data_is_shown_as_it_is(name: str) -> None:
    """Not read as mathematics, and drawn though UTF-8 cannot hold it."""
    probes = [{"pairs_seen": float(pairs), "knn_accuracy": 0.5} for pairs in (0, 10)]
    assert draw_curves([], probes, name).startswith(b"\x89PNG")


def test_the_line_of_the_random_weights_is_named_in_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    png = plots.png

    def keep(figure: Figure, **options: Any) -> bytes:
        drawn.append(figure)
        return png(figure, **options)

    monkeypatch.setattr(plots, "png", keep)
    probes = [{"pairs_seen": float(n), "knn_accuracy": 0.1, "pair_retrieval": n / 20} for n in range(10)]
    draw_curves([{"pairs_seen": 1.0, "lr": 0.1}], probes, "digits")
    knn, pairs, rate = drawn[0].axes
    assert pairs.get_title(loc="left") == "pair retrieval"
    for axes, name in ((knn, "kNN"), (pairs, "pairs")):
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [name, "random weights"]
        assert not axes.texts  # a label beside the line would be struck through by the curve
    assert rate.get_legend() is None


def test_the_line_at_the_start_is_that_of_the_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many probes a point of the curve averages, and where random weights were not measured there is none."""
    drawn: list[float] = []
    monkeypatch.setattr(curves, "_draw_start", lambda axes, value: drawn.append(value))
    later = {"knn_accuracy": 0.9, "linear_accuracy": 0.9}
    probes = [{"pairs_seen": 0.0, "knn_accuracy": 0.1}, *({"pairs_seen": float(n), **later} for n in range(1, 1000))]
    draw_curves([], probes, "digits")
    assert drawn == [0.1]


def test_a_long_log_is_thinned_out_by_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is no number has no part in them."""
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "png", lambda figure, **_: drawn.append(figure) or b"")
    rows = [{"pairs_seen": float(n), "loss": math.nan if n == 2 else float(n)} for n in range(1, 1002)]
    draw_curves(rows, [{"pairs_seen": 0.0}], "digits")
    (line,) = drawn[0].axes[0].lines
    points = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert points[:2] == [(4, pytest.approx((1 + 3 + 4) / 3)), (7, 6)]
    assert points[-1] == (1001, 1001)  # the one that is left of a thousand in threes
    assert len(points) == 334


def test_parts_of_a_log_follow_one_another_by_number(tmp_path: Path) -> None:
    for version in range(12):
        (tmp_path / "csv" / f"version_{version}").mkdir(parents=True)
        (tmp_path / "csv" / f"version_{version}" / "metrics.csv").write_text(f"step,loss\n{version},{version / 2}\n")
    rows, _ = read_log(tmp_path, "csv")
    assert [row["loss"] for row in rows] == [version / 2 for version in range(12)]
