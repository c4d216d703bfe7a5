"""Plot helpers: matplotlib figures without a window system, one look, and names shown as they are.

matplotlib is imported when a figure is made: programs that draw at their end answer ``--help`` without it.
"""

from __future__ import annotations

import io
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from fps_pretrain.common.files import write_bytes_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
"""Pixels per inch of a PNG."""

COURSE = 3
"""Points that make a course: a line through fewer would show what nobody measured."""

LINE = 38
"""Characters in a line of a long name."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width x height`` inches that is not registered with pyplot: no display, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style(axes: Axes, *, grid: bool = True, integer_x: bool = False, integer_y: bool = False) -> None:
    """Give axes the common look.

    Args:
        axes: what is drawn on.
        grid: draw pale grid lines.
        integer_x: ticks of the x axis lie at whole numbers, such as rounds.
        integer_y: those of the y axis do.
    """
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.3)
    for axis in ([axes.xaxis] if integer_x else []) + ([axes.yaxis] if integer_y else []):
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(integer=True))


def literal(text: object) -> str:
    r"""``text`` as a label that matplotlib shows as it is.

    Dollar signs would start mathematics (and ``$\frac$`` an error), a surrogate (from an undecodable file name) and
    control characters cannot be drawn, and a legend leaves out labels that begin with an underscore.
    """
    shown = str(text).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
    shown = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", shown)
    return f" {shown}" if shown.startswith("_") else shown


def wrapped(text: object) -> str:
    """``literal`` in lines of at most ``LINE`` characters, as for names in a legend or beside an axis."""
    return literal(textwrap.fill(str(text), LINE))


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write the figure as a PNG file; a reader sees the old file or the new one.

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes_atomically(path, png(figure, dpi))
