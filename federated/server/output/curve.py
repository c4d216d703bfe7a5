"""A run's curve as a picture, which it leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from federated.server.output.history import Row
from fps_pretrain.common import plots


def plot_curve(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw accuracy and loss over the rounds into a PNG file.

    Raises:
        OSError: it cannot be written.
    """
    figure = plots.new_figure(9, 3.5)
    accuracy, loss = figure.subplots(1, 2)
    for axes, quantity in ((accuracy, "accuracy"), (loss, "loss")):
        for split, name in (("test", "test"), ("val", "validation"), ("train", "training, at the clients")):
            if points := _points(rows, f"{split}_{quantity}"):
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else None)
        if quantity == "accuracy":
            for key, name in (
                ("client_accuracy_mean", "mean of clients"),
                ("client_accuracy_worst_tenth", "worst tenth"),
                ("fine_tuned_accuracy_mean", "mean of clients, fine-tuned"),
            ):
                if points := _points(rows, key):
                    line = "--" if len(points) >= plots.COURSE else "none"
                    axes.plot(*zip(*points, strict=True), label=name, linestyle=line, marker=".")
        axes.set(xlabel="round", ylabel=quantity)
        plots.style(axes, integer_x=True)
    accuracy.set_ylim(0, 1)
    loss.set_yscale("log")  # fresh weights have losses far above all that follow
    accuracy.legend(frameon=False)
    figure.suptitle(plots.literal(title))
    plots.save(figure, path)


def _points(rows: Sequence[Row], key: str) -> list[tuple[int, float]]:
    """A measure after each round that has it."""
    return [(row["round"], row[key]) for row in rows if row.get(key) is not None]
