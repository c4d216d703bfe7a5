"""Names in pictures are shown as they are, whatever they hold."""

import subprocess
import sys
import warnings

import pytest

from fps_pretrain.common import plots
from tests.conftest import REPOSITORY

NAMES = [r"$\frac$", "$x", "a $b$ c", r"\$", "_hidden", "\udcff.pt", "a\x1b[31m\0", "plain"]


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
    assert shown.strip() == name.replace("\udcff", "\\udcff").replace("\x1b", "\\x1b").replace("\0", "\\x00")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_long_name_is_wrapped_without_losing_anything():
    name = "an-encoder-with-$quite$-a-long-name, lr 0.03, " + 50 * "x"
    lines = plots.wrapped(name).replace(r"\$", "$").splitlines()
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert len(lines) > 2
    assert max(map(len, lines)) <= plots.LINE
    assert plots.wrapped("short, lr 0.1") == "short, lr 0.1"


def test_pictures_are_drawn_without_pyplot(tmp_path):
    """In a process of its own: other tests, and libraries they use, may import pyplot."""
    program = f"""
import sys
from pathlib import Path
from fps_pretrain.common import plots
figure = plots.new_figure(3, 2)
axes = figure.subplots()
axes.plot([0, 1], [0, 1], label=plots.literal("a"))
axes.legend()
plots.style(axes, integer_x=True)
plots.save(figure, Path({str(tmp_path)!r}) / "a.png")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)
    assert (tmp_path / "a.png").is_file()
