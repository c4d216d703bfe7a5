"""The picture of the images that a classifier is most and least certain of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from federated.results import sheet
from fps_pretrain.common import plots


def drawn(count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Figure, list[list[int]]]:
    """The picture of so many images, and which of them are in each of its parts."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    shown: list[list[int]] = []

    def prepare(paths: list[Path]) -> np.ndarray:
        shown.append([int(path.name) for path in paths])
        return np.zeros((len(paths), 8, 8, 3), np.uint8)

    classifier: Any = SimpleNamespace(classes=("a", "b"), prepare=prepare)
    certainty = np.linspace(0.99, 0.51, count, dtype=np.float32)
    paths = [Path(str(number)) for number in range(count)]
    sheet.draw(tmp_path / "sheet.png", classifier, paths, np.stack([certainty, 1 - certainty], axis=1))
    return figures[0], shown


@pytest.mark.parametrize("count", [1, 3, 12, 31])
def test_few_images_are_shown_once_each(count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figure, shown = drawn(count, monkeypatch, tmp_path)
    assert shown == [list(range(count))]
    (part,) = figure.subfigs
    assert part.get_suptitle() == "by certainty"
    assert sum(len(axes.images) for axes in part.axes) == count
    assert len(part.axes) - count < sheet.COLUMNS
    assert figure.get_figwidth() == pytest.approx(1.3 * max(2, min(8, count)))


def test_of_many_images_there_are_two_parts_with_none_in_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for count in (32, 40):
        figure, (most, least) = drawn(count, monkeypatch, tmp_path)
        assert most == list(range(16))
        assert least == list(range(count))[:-17:-1]
        assert [part.get_suptitle() for part in figure.subfigs] == ["most certain", "least certain"]
