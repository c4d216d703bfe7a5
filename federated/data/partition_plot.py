"""A picture of a partition: how many examples of which class each client has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from federated.data.partition import Indices, Partition, count_labels
from fps_pretrain.common import plots
from fps_pretrain.common.wording import counted

MAX_BARS = 60
"""Clients that are drawn as bars of their own; more are drawn as a map."""

MAX_BAR_CLASSES = 1000
"""Classes of those bars; more are drawn as a map, since each piece of a bar takes a millisecond."""

MAX_COLUMNS = 1000
"""Columns of that map."""


def plot_partition(path: Path, partition: Partition, labels: Indices, classes: Sequence[str]) -> None:
    """Draw how many examples of which class each client has, by the ``labels`` ``(N,)`` of all, into a PNG file."""
    plot_counts(path, count_labels(partition, labels, len(classes)), classes)


def plot_counts(path: Path, counts: Indices, classes: Sequence[str]) -> None:
    """Draw numbers of examples ``(clients, classes)`` into a PNG file.

    Up to ``MAX_BARS`` clients (and ``MAX_BAR_CLASSES`` classes) are stacked bars. More are a map, a column a client and
    a row a class, under a curve of their sizes, with the clients in the order of their most frequent class.

    Raises:
        OSError: it cannot be written.
    """
    few = len(counts) <= MAX_BARS and len(classes) <= MAX_BAR_CLASSES
    width = float(np.clip(2.5 + 0.35 * len(counts), 6, 14)) if few else 11.0
    figure = plots.new_figure(width, 4 if few else 6)
    (_draw_bars if few else _draw_map)(figure, counts, classes)
    plots.save(figure, path)


def _draw_bars(figure: Figure, counts: Indices, classes: Sequence[str]) -> None:
    clients = np.arange(len(counts))
    axes = figure.add_subplot()
    colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
    bottom = np.zeros(len(clients))
    for label, name in enumerate(classes):
        colour = colours(label if len(classes) <= 10 else label / (len(classes) - 1))
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.9, color=colour, label=plots.literal(name))
        bottom += counts[:, label]
    axes.set(
        xlabel="client", ylabel="training examples", title=f"Examples by class at {counted(len(clients), 'client')}"
    )
    axes.set_xlim(-0.6, len(clients) - 0.4)
    if len(clients) <= 30:
        axes.set_xticks(clients)
    if len(classes) <= 20:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    plots.style(axes, grid=False)


def _draw_map(figure: Figure, counts: Indices, classes: Sequence[str]) -> None:
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    # Sort by the most frequent class, then by its share.
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    top, below = figure.subplots(2, 1, height_ratios=[1, 2])
    top.plot(np.sort(sizes)[::-1], drawstyle="steps-mid")
    top.set(xlabel="clients, largest first", ylabel="training examples", title=f"Examples at {len(counts)} clients")
    top.set_xlim(-0.5, len(counts) - 0.5)
    top.set_ylim(0)
    plots.style(top)
    # Average neighbours where there are more clients than columns.
    columns = [shares[group].mean(axis=0) for group in np.array_split(order, min(len(order), MAX_COLUMNS))]
    extent = (-0.5, len(counts) - 0.5, len(classes) - 0.5, -0.5)
    image = below.imshow(
        np.array(columns).T, aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0, extent=extent
    )
    below.set(xlabel="clients, by their most frequent class", ylabel="class")
    if len(classes) <= 20:
        below.set_yticks(range(len(classes)), labels=[plots.literal(name) for name in classes], fontsize="small")
    figure.colorbar(image, ax=below, label="share of the client's examples")
