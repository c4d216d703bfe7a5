"""Which client holds which training example, as lists of indices: the kinds of partition.

A kind is a function of the configuration, the labels and a generator. To add one, write it and name it in
``_PARTITIONERS``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.keys import seed_of
from fps_pretrain.common.wording import counted

Indices = NDArray[np.int64]

Partition = list[Indices]
"""For each client the sorted indices of its training examples; disjoint, and together all of them."""


def make_partition(config: RunConfig, labels: Indices, user_ids: NDArray[np.str_] | None = None) -> Partition:
    """Spread all examples over the clients, as a function of ``config.seed``.

    ``iid``: shuffled examples in equal parts.
    ``dirichlet``: each class's shares are drawn from a symmetric Dirichlet distribution with concentration alpha, so
    that clients differ in size, too (Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning", section 4; by
    flwr-datasets).
    ``inner-dirichlet``: clients of equal size, each with class proportions drawn from that distribution (Hsu et al.
    2019, "Measuring the Effects of Non-Identical Data Distribution", section 3; its alpha is this one times the number
    of classes), as far as the examples last.
    ``shards``: blocks of the examples sorted by label (McMahan et al. 2017, "Communication-Efficient Learning",
    section 3).
    ``pathological``: a number of classes a client; a class is shared equally by the clients that have it. Unlike
    flwr-datasets' partitioner of that name, every class has a client.
    ``size``: shuffled examples in parts that grow with the client's number k like k, its square or its exponential.
    ``natural``: by ``user_ids``, all examples of one with one client.

    Args:
        config: the partition and its details.
        labels: int64 ``(N,)``.
        user_ids: who made each example ``(N,)``, for the natural partition.

    Raises:
        UserError: there are more clients than examples, or no such partition leaves every client enough examples.
    """
    if config.partition == "nodes":
        return [np.empty(0, np.int64) for _ in range(config.clients)]
    if config.clients > len(labels):
        raise UserError(f"--clients {config.clients} is more than the {len(labels)} training examples there are")
    rng = np.random.default_rng(seed_of(config.seed, "partition") % 2**32)
    if config.partition == "natural":
        assert user_ids is not None
        parts = _natural(config, user_ids, rng)
    else:
        parts = _PARTITIONERS[config.partition](config, labels, rng)
    partition = [np.sort(part).astype(np.int64) for part in parts]
    if min(map(len, partition)) < config.min_partition_size:
        raise UserError(f"{_impossible(config)}: {_advice(config)}")
    return partition


# flwr-datasets has this one, and those by size and by who made the examples; these shuffle by keys of the run.
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
            self_balancing=False,
            seed=seed_of(config.seed, "partition-dirichlet") % 2**32,
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
            f"{counted(config.clients, 'client')} with {each} classes each cannot hold all {len(present)} classes: "
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
        if len(rows) < len(clients):
            raise UserError(
                f"class {label} has {counted(len(rows), 'training example')} for {len(clients)} clients: "
                "lower --clients or --classes-per-client"
            )
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
    # Each client gets the fewest examples allowed; the rest is shared out in proportion to the weights.
    ends = np.round(spare * np.cumsum(weights) / weights.sum()).astype(np.int64)
    ends += config.min_partition_size * np.arange(1, config.clients + 1)
    return np.split(rng.permutation(len(labels)), ends[:-1])


def _natural(config: RunConfig, user_ids: NDArray[np.str_], rng: np.random.Generator) -> Partition:
    names, user = np.unique(user_ids, return_inverse=True)
    if config.clients > len(names):
        raise UserError(f"--clients {config.clients} is more than the {len(names)} who made the training examples")
    client_of = np.empty(len(names), np.int64)
    for client, hand in enumerate(np.array_split(rng.permutation(len(names)), config.clients)):
        client_of[hand] = client
    order = np.argsort(client_of[user], kind="stable")
    return np.split(order, np.cumsum(np.bincount(client_of[user], minlength=config.clients))[:-1])


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


def count_labels(partition: Partition, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Examples of each class at each client, ``(clients, classes)``."""
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in partition])


def describe(partition: Partition, labels: Indices, num_classes: int) -> str:
    """In a few words: how many examples and how many classes a client has."""
    return describe_counts(count_labels(partition, labels, num_classes))


def describe_counts(counts: Indices) -> str:
    """``describe`` of numbers of examples ``(clients, classes)``."""
    sizes, present = counts.sum(axis=1), (counts > 0).sum(axis=1)
    if len(counts) == 1:
        classes = "1 class" if present[0] == 1 else f"{present[0]} classes"
        return f"1 client with {counted(sizes[0], 'example')} of {classes}"
    return (
        f"{len(counts)} clients with {sizes.min()} to {sizes.max()} examples (median {np.median(sizes):g}) "
        f"of {present.min()} to {present.max()} classes"
    )
