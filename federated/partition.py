"""Which client holds which training example: flwr-datasets' partitioners, as lists of indices."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated.config import RunConfig
from federated.keys import seed_of
from fps_pretrain.errors import UserError

Partition = list[NDArray[np.int64]]
"""For each client the sorted indices of its training examples; disjoint, and together all of them."""


def make_partition(config: RunConfig, labels: NDArray[np.int64]) -> Partition:
    """Spread the examples with these labels ``(N,)`` over the clients, as a function of ``config.seed``.

    ``iid`` deals shuffled examples in equal parts. ``dirichlet`` draws each class's shares from a symmetric Dirichlet
    distribution with concentration alpha and gives no more to a client that already has its fair share (Yurochkin et
    al. 2019, "Bayesian Nonparametric Federated Learning", section 4; flwr-datasets' default). ``shards`` deals
    blocks of the examples sorted by label (McMahan et al. 2017, "Communication-Efficient Learning", section 3).

    Raises:
        UserError: there are more clients than examples, or no such partition leaves every client enough examples.
    """
    if config.clients > len(labels):
        raise UserError(f"--clients {config.clients} is more than the {len(labels)} training examples there are")
    if config.partition == "shards" and config.clients * config.shards_per_client > len(labels):
        raise UserError(f"{_impossible(config)}: {_advice(config)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Importing flwr-datasets takes seconds: a resumed run reads partition.npz instead.
        from datasets import Dataset

        seed = seed_of(config.seed, "partition") % 2**32
        # A partitioner sees labels only. Their order is drawn here, because the IID partitioner cuts without shuffling.
        order = np.random.default_rng(seed).permutation(len(labels))
        partitioner = _partitioner(config, seed)
        partitioner.dataset = Dataset.from_dict({"index": order, "label": labels[order]})
        try:
            parts = [np.asarray(partitioner.load_partition(client)["index"]) for client in range(config.clients)]
        except ValueError as error:
            raise UserError(f"{_impossible(config)}: {_advice(config)}") from error
    if config.partition == "shards":
        parts = _deal_remainder(parts, np.asarray(partitioner.dataset["index"]))
    partition = [np.sort(part).astype(np.int64) for part in parts]
    if min(map(len, partition)) < config.min_partition_size:
        raise UserError(f"{_impossible(config)}: {_advice(config)}")
    return partition


def _partitioner(config: RunConfig, seed: int) -> Any:
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, ShardPartitioner

    if config.partition == "iid":
        return IidPartitioner(config.clients)
    if config.partition == "shards":
        return ShardPartitioner(config.clients, "label", config.shards_per_client, seed=seed)
    return DirichletPartitioner(
        config.clients, "label", config.alpha, min_partition_size=config.min_partition_size, seed=seed
    )


def _deal_remainder(parts: list[NDArray[Any]], by_label: NDArray[Any]) -> list[NDArray[Any]]:
    """Give the examples left over by equal shards, the last by label, one each to the owners of the last shards."""
    owner = {int(index): client for client, part in enumerate(parts) for index in part}
    left_over = [int(index) for index in by_label if int(index) not in owner]
    assigned = by_label[: len(by_label) - len(left_over)]
    for number, index in enumerate(left_over):
        client = owner[int(assigned[-1 - number])]
        parts[client] = np.append(parts[client], index)
    return parts


def _impossible(config: RunConfig) -> str:
    return (
        f"no {config.partition} partition found that gives each of {config.clients} clients "
        f"{config.min_partition_size} examples or more"
    )


def _advice(config: RunConfig) -> str:
    specific = {"iid": "", "dirichlet": "raise --alpha, ", "shards": "lower --shards-per-client, "}[config.partition]
    return f"{specific}lower --clients or --min-partition-size"


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


def describe(partition: Partition, labels: NDArray[np.int64], num_classes: int) -> str:
    """One line: how many examples and how many classes a client has."""
    counts = count_labels(partition, labels, num_classes)
    sizes, present = counts.sum(axis=1), (counts > 0).sum(axis=1)
    return (
        f"{len(partition)} clients with {sizes.min()} to {sizes.max()} examples (median {np.median(sizes):g}) "
        f"of {present.min()} to {present.max()} classes"
    )


def plot_partition(path: Path, partition: Partition, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw one bar a client, its examples stacked by class, into a PNG file."""
    # A figure of its own, not pyplot's: no window system and no global state.
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    counts = count_labels(partition, labels, len(classes))
    clients = np.arange(len(partition))
    figure = Figure(figsize=(float(np.clip(2.5 + 0.35 * len(clients), 6, 14)), 4), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
    bottom = np.zeros(len(clients))
    for label, name in enumerate(classes):
        colour = colours(label if len(classes) <= 10 else label / (len(classes) - 1))
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.9, color=colour, label=name)
        bottom += counts[:, label]
    axes.set(xlabel="client", ylabel="training examples", title=f"Examples by class at {len(clients)} clients")
    axes.set_xlim(-0.6, len(clients) - 0.4)
    if len(clients) <= 30:
        axes.set_xticks(clients)
    if len(classes) <= 20:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
