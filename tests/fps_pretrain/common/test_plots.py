"""Names in pictures are shown as they are, whatever they hold."""

import sys
import warnings

import pytest

from fps_pretrain.common import plots

NAMES = [r"$\frac$", "$x", "a $b$ c", r"\$", "_hidden", "\udcff.pt", "plain"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name, tmp_path):
    figure = plots.new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=plots.literal(name))
    axes.set_title(plots.literal(name))
    axes.set_yticks([0, 1], labels=[plots.literal(name), "b"])
    legend = axes.legend()
    plots.style(axes, integer_x=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(legend.get_texts()) == 1
    shown, mathematics = axes.title._preprocess_math(axes.title.get_text())
    assert not mathematics
    assert shown.strip() == name.replace("\udcff", "\\udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert "matplotlib.pyplot" not in sys.modules
