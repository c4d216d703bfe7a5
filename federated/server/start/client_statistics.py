"""What the clients are asked before the first round, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data.partition import count_labels, describe_counts
from federated.data.partition_plot import plot_counts
from federated.server.exchange import Arrived, Clients, RunFailed
from federated.server.output import file_names
from federated.server.output.progress import log
from federated.server.output.run_folder import RunFolder, State
from federated.server.replies import BadReply, read_sums
from federated.server.start import initialise

MOST_EXAMPLES = 2**40
"""More training examples than a node can have."""


def numbers_of_examples(config: RunConfig, space: Workspace, clients: Clients) -> NDArray[np.int64]:
    """How many training examples of each class each client has, ``(clients, classes)``.

    The partition says so, or, with ``--partition nodes``, the nodes themselves.

    Raises:
        RunFailed: a node does not say, or has too few.
    """
    classes = len(space.dataset.classes)
    if config.partition != "nodes":
        return count_labels(space.partition, space.dataset.train.labels, classes)
    counts = [_counts(client, answer, classes) for client, answer in enumerate(_ask(clients, "query.labels", {}))]
    for client, mine in enumerate(counts):
        if sum(mine) < config.min_partition_size:
            raise RunFailed(
                f"client {client} has {sum(mine)} training examples, fewer than --min-partition-size "
                f"{config.min_partition_size}"
            )
    return np.array(counts, dtype=np.int64)


def _counts(client: int, answer: RecordDict, classes: int) -> list[Any]:
    counts = answer.config_records.get("labels", ConfigRecord()).get("counts")
    if (
        not isinstance(counts, list)
        or len(counts) != classes
        or not all(type(count) is int and 0 <= count <= MOST_EXAMPLES for count in counts)
        or not any(counts)
    ):
        raise RunFailed(f"client {client} does not say how many examples of each class it has")
    return counts


def prepare(
    config: RunConfig,
    space: Workspace,
    clients: Clients,
    counts: NDArray[np.int64],
    state: State,
    folder: RunFolder,
    arrived: Arrived,
) -> State:
    """The state that the first round starts from; a run that is resumed before it asks again.

    Raises:
        RunFailed: a client does not answer.
    """
    if config.partition == "nodes":
        plot_counts(folder.path / file_names.PARTITION_PICTURE, counts, space.dataset.classes)
        log.info(f"clients {describe_counts(counts)}")
    weights = state.weights
    assert config.image_size is not None
    most = [int(examples) * config.image_size**2 for examples in counts.sum(1)]
    if config.init_statistics == "clients":
        answers = _ask(clients, "query.batch_norm_sums", {"arrays": weights}, arrived)
        like = initialise.batch_norm_sums_like(space.model)
        weights = initialise.pooled_statistics(weights, _read(answers, like, most))
    if config.head == "centroid":
        answers = _ask(clients, "query.class_sums", {"arrays": weights}, arrived)
        parts = _read(answers, initialise.class_sums_like(weights), most)
        weights = initialise.centroid_head(weights, [(part["sums"], part["counts"]) for part in parts])
    return replace(state, weights=weights)


def _ask(
    clients: Clients, message_type: str, arrays: Mapping[str, Mapping[str, Tensor]], arrived: Arrived | None = None
) -> list[RecordDict]:
    """What all clients answer, in client order.

    Raises:
        RunFailed: one does not.
    """
    told = {client: {"state-round": 0} for client in range(len(clients))}
    answers, failures = clients.ask(message_type, arrays, told, arrived)
    for client, reason in failures.items():
        raise RunFailed(f"client {client} does not answer: {reason}")
    return list(answers.values())


def _read(answers: list[RecordDict], like: Mapping[str, Tensor], most: list[int]) -> list[dict[str, Tensor]]:
    parts = []
    for client, answer in enumerate(answers):
        try:
            parts.append(read_sums(answer, like, most[client]))
        except BadReply as bad:
            raise RunFailed(f"client {client} does not answer as asked: {bad}") from bad
    return parts
