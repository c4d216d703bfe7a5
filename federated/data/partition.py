"""Which client holds which training example, as lists of indices, and a picture of it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from federated.config.run import RunConfig
from fps_pretrain.common import plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import seed_of

Indices = NDArray[np.int64]

Partition = list[Indices]
"""For each client the sorted indices of its training examples; disjoint, and together all of them."""

MAX_BARS = 60
"""Clients that are drawn as bars of their own; more are drawn as a map."""

MAX_COLUMNS = 1000
"""Columns of that map."""


def make_partition(config: RunConfig, labels: Indices, owners: NDArray[np.str_] | None = None) -> Partition:
    """Spread all examples over the clients, as a function of ``config.seed``.

    ``iid``: shuffled examples in equal parts.
    ``dirichlet``: each class's shares are drawn from a symmetric Dirichlet distribution with concentration alpha, and
    a client that has its fair share gets no more (Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning",
    section 4; by flwr-datasets).
    ``inner-dirichlet``: clients of equal size, each with class proportions drawn from that distribution (Hsu et al.
    2019, "Measuring the Effects of Non-Identical Data Distribution", section 3), as far as the examples last.
    ``shards``: blocks of the examples sorted by label (McMahan et al. 2017, "Communication-Efficient Learning",
    section 3).
    ``pathological``: a number of classes a client; a class is shared equally by the clients that have it. Unlike
    flwr-datasets' partitioner of that name, every class has a client.
    ``size``: shuffled examples in parts that grow with the client's number k like k, its square or its exponential.
    ``natural``: by ``owners``, all examples of one with one client.

    Args:
        config: the partition and its details.
        labels: int64 ``(N,)``.
        owners: who made each example ``(N,)``, for the natural partition.

    Raises:
        UserError: there are more clients than examples, or no such partition leaves every client enough examples.
    """
    if config.partition == "nodes":
        return [np.empty(0, np.int64) for _ in range(config.clients)]
    if config.clients > len(labels):
        raise UserError(f"--clients {config.clients} is more than the {len(labels)} training examples there are")
    rng = np.random.default_rng(seed_of(config.seed, "partition") % 2**32)
    if config.partition == "natural":
        assert owners is not None
        parts = _natural(config, owners, rng)
    else:
        parts = _PARTITIONERS[config.partition](config, labels, rng)
    partition = [np.sort(part).astype(np.int64) for part in parts]
    if min(map(len, partition)) < config.min_partition_size:
        raise UserError(f"{_impossible(config)}: {_advice(config)}")
    return partition


def _iid(config: RunConfig, labels: Indices, rng: np.random.Generator) -> Partition:
    return np.array_split(rng.permutation(len(labels)), config.clients)


def _dirichlet(config: RunConfig, labels: Indices, rng: np.random.Generator) -> Partition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Importing flwr-datasets takes seconds: a resumed run reads partition.npz instead.
        from datasets import Dataset
        from flwr_datasets.partitioner import DirichletPartitioner

        assert config.alpha is not None
        partitioner = DirichletPartitioner(
            config.clients,
            "label",
            config.alpha,
            min_partition_size=config.min_partition_size,
            seed=seed_of(config.seed, "partition") % 2**32,
        )
        order = rng.permutation(len(labels))
        partitioner.dataset = Dataset.from_dict({"index": order, "label": labels[order]})
        try:
            return [np.asarray(partitioner.load_partition(client)["index"]) for client in range(config.clients)]
        except ValueError as error:
            raise UserError(f"{_impossible(config)}: {_advice(config)}") from error


def _inner_dirichlet(config: RunConfig, labels: Indices, rng: np.random.Generator) -> Partition:
    # flwr-datasets' partitioner of this name takes 45 s for 10,000 clients.
    rows = [rng.permutation(np.flatnonzero(labels == label)) for label in range(int(labels.max()) + 1)]
    left = np.array([len(of_class) for of_class in rows])
    sizes = [len(part) for part in np.array_split(labels, config.clients)]
    parts: Partition = [np.empty(0, np.int64)] * config.clients
    for client in rng.permutation(config.clients):
        assert config.alpha is not None
        shares = rng.dirichlet(np.full(len(rows), config.alpha))
        taken = np.zeros_like(left)
        while missing := sizes[client] - taken.sum():
            # What a class lacks is drawn from the others; shares so small that they are zero become equal ones.
            weights = np.where(left > 0, np.maximum(shares, 1e-12), 0)
            drawn = np.minimum(rng.multinomial(missing, weights / weights.sum()), left)
            taken, left = taken + drawn, left - drawn
        ends = left + taken
        parts[client] = np.concatenate([rows[label][left[label] : ends[label]] for label in np.flatnonzero(taken)])
    return parts


def _shards(config: RunConfig, labels: Indices, rng: np.random.Generator) -> Partition:
    assert config.shards_per_client is not None
    count = config.clients * config.shards_per_client
    if count > len(labels):
        raise UserError(f"{_impossible(config)}: {_advice(config)}")
    order = rng.permutation(len(labels))
    # flwr-datasets' partitioner cuts shards of one size and leaves the remainder out.
    blocks = np.array_split(order[np.argsort(labels[order], kind="stable")], count)
    dealt = np.array_split(rng.permutation(count), config.clients)
    return [np.concatenate([blocks[block] for block in hand]) for hand in dealt]


def _pathological(config: RunConfig, labels: Indices, rng: np.random.Generator) -> Partition:
    each = config.classes_per_client
    assert each is not None
    present = np.unique(labels)
    if each > len(present):
        raise UserError(f"--classes-per-client {each} is more than the {len(present)} classes there are")
    if config.clients * each < len(present):
        raise UserError(
            f"{config.clients} clients with {each} classes each cannot hold all {len(present)} classes: "
            "raise --clients or --classes-per-client"
        )
    members: list[list[int]] = [[] for _ in present]
    for client in range(config.clients):
        # The classes with the fewest clients first, so that each has as many as any other, or one more.
        fewest = np.lexsort((rng.random(len(present)), np.array([len(clients) for clients in members])))
        for position in fewest[:each]:
            members[position].append(client)
    parts: list[list[Indices]] = [[] for _ in range(config.clients)]
    for label, clients in zip(present, members, strict=True):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for client, share in zip(clients, np.array_split(rows, len(clients)), strict=True):
            parts[client].append(share)
    return [np.concatenate(shares) for shares in parts]


def _size(config: RunConfig, labels: Indices, rng: np.random.Generator) -> Partition:
    number = np.arange(1, config.clients + 1, dtype=np.float64)
    # Relative to the last, since the exponential of a large number is infinite.
    growth = {"linear": number, "square": number**2, "exponential": np.exp(number - number[-1])}
    weights = growth[str(config.size_skew)]
    spare = len(labels) - config.clients * config.min_partition_size
    if spare < 0:
        raise UserError(f"{_impossible(config)}: {_advice(config)}")
    # Everybody gets the fewest examples allowed, and what is left grows.
    ends = np.round(spare * np.cumsum(weights) / weights.sum()).astype(np.int64)
    ends += config.min_partition_size * np.arange(1, config.clients + 1)
    return np.split(rng.permutation(len(labels)), ends[:-1])


def _natural(config: RunConfig, owners: NDArray[np.str_], rng: np.random.Generator) -> Partition:
    names, owner = np.unique(owners, return_inverse=True)
    if config.clients > len(names):
        raise UserError(f"--clients {config.clients} is more than the {len(names)} who made the training examples")
    client_of = np.empty(len(names), np.int64)
    for client, hand in enumerate(np.array_split(rng.permutation(len(names)), config.clients)):
        client_of[hand] = client
    order = np.argsort(client_of[owner], kind="stable")
    return np.split(order, np.cumsum(np.bincount(client_of[owner], minlength=config.clients))[:-1])


_PARTITIONERS: dict[str, Callable[[RunConfig, Indices, np.random.Generator], Partition]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "inner-dirichlet": _inner_dirichlet,
    "shards": _shards,
    "pathological": _pathological,
    "size": _size,
}


def _impossible(config: RunConfig) -> str:
    return (
        f"no {config.partition} partition found that gives each of {config.clients} clients "
        f"{config.min_partition_size} examples or more"
    )


def _advice(config: RunConfig) -> str:
    specific = {
        "dirichlet": "raise --alpha, use --partition inner-dirichlet, ",
        "shards": "lower --shards-per-client, ",
    }
    return f"{specific.get(config.partition, '')}lower --clients or --min-partition-size"


def save_partition(path: Path, partition: Partition) -> None:
    """Write a partition as two plain arrays: all indices one client after the other, and where each client ends."""
    np.savez(path, indices=np.concatenate(partition), ends=np.cumsum([len(part) for part in partition]))


def load_partition(path: Path) -> Partition:
    """Read what ``save_partition`` wrote.

    Raises:
        UserError: the file is missing or is not such a partition.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return [part.astype(np.int64) for part in np.split(file["indices"], file["ends"][:-1])]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is missing or damaged: remove the run folder and start the run again") from error


def count_labels(partition: Partition, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Examples of each class at each client, ``(clients, classes)``."""
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in partition])


def describe(partition: Partition, labels: Indices, num_classes: int) -> str:
    """One line: how many examples and how many classes a client has."""
    return describe_counts(count_labels(partition, labels, num_classes))


def describe_counts(counts: Indices) -> str:
    """``describe`` of numbers of examples ``(clients, classes)``."""
    sizes, present = counts.sum(axis=1), (counts > 0).sum(axis=1)
    return (
        f"{len(counts)} clients with {sizes.min()} to {sizes.max()} examples (median {np.median(sizes):g}) "
        f"of {present.min()} to {present.max()} classes"
    )


def plot_partition(path: Path, partition: Partition, labels: Indices, classes: Sequence[str]) -> None:
    """Draw how many examples of which class each client has into a PNG file."""
    plot_counts(path, count_labels(partition, labels, len(classes)), classes)


def plot_counts(path: Path, counts: Indices, classes: Sequence[str]) -> None:
    """Draw numbers of examples ``(clients, classes)`` into a PNG file.

    Up to ``MAX_BARS`` clients are stacked bars. More are a map, a column a client and a row a class, under a curve of
    their sizes, with the clients in the order of their most frequent class.
    """
    few = len(counts) <= MAX_BARS
    width = float(np.clip(2.5 + 0.35 * len(counts), 6, 14)) if few else 11.0
    figure = plots.new_figure(width, 4 if few else 6)
    (_draw_bars if few else _draw_map)(figure, counts, classes)
    plots.save(figure, path)


def _draw_bars(figure: Figure, counts: Indices, classes: Sequence[str]) -> None:
    from matplotlib import colormaps

    clients = np.arange(len(counts))
    axes = figure.add_subplot()
    colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
    bottom = np.zeros(len(clients))
    for label, name in enumerate(classes):
        colour = colours(label if len(classes) <= 10 else label / (len(classes) - 1))
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.9, color=colour, label=plots.literal(name))
        bottom += counts[:, label]
    axes.set(xlabel="client", ylabel="training examples", title=f"Examples by class at {len(clients)} clients")
    axes.set_xlim(-0.6, len(clients) - 0.4)
    if len(clients) <= 30:
        axes.set_xticks(clients)
    if len(classes) <= 20:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    plots.style(axes, grid=False)


def _draw_map(figure: Figure, counts: Indices, classes: Sequence[str]) -> None:
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    # By most frequent class and, among equals, by its share: whoever has one class only stands beside the like.
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    top, below = figure.subplots(2, 1, height_ratios=[1, 2])
    top.plot(np.sort(sizes)[::-1], drawstyle="steps-mid")
    top.set(xlabel="clients, largest first", ylabel="training examples", title=f"Examples at {len(counts)} clients")
    top.set_xlim(-0.5, len(counts) - 0.5)
    top.set_ylim(0)
    plots.style(top)
    # Neighbours are averaged where there are more than a picture has columns.
    columns = [shares[group].mean(axis=0) for group in np.array_split(order, min(len(order), MAX_COLUMNS))]
    extent = (-0.5, len(counts) - 0.5, len(classes) - 0.5, -0.5)
    image = below.imshow(
        np.array(columns).T, aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0, extent=extent
    )
    below.set(xlabel="clients, by their most frequent class", ylabel="class")
    if len(classes) <= 20:
        below.set_yticks(range(len(classes)), labels=[plots.literal(name) for name in classes], fontsize="small")
    figure.colorbar(image, ax=below, label="share of the client's examples")
