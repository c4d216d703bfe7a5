"""The picture of a run's curve."""

from pathlib import Path

import pytest

from federated.server.output.curve import plot_curve
from fps_pretrain.common import plots


@pytest.mark.parametrize(("measured", "line"), [((0, 2), "None"), ((0, 1, 2), "--")])
def test_a_line_joins_what_was_measured_often_enough_for_a_course(
    measured: tuple[int, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rows = [
        {"round": r, "test_accuracy": 0.1 * r} | ({"client_accuracy_mean": 0.1} if r in measured else {})
        for r in range(3)
    ]
    plot_curve(Path("curve.png"), rows, "run")
    lines = {drawn.get_label(): drawn.get_linestyle() for drawn in figures[0].axes[0].lines}
    assert lines == {"test": "-", "mean of clients": line}
