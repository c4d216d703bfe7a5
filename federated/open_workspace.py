"""The workspace of this process: opened once, and found by what a message says of its run.

Each process has one at a time. The process that starts a run opens it, and clients in the same process find it there.
Worker processes open their own over the same examples, files that all of them map into memory. Ray actors get theirs
from Ray's object store. Clients elsewhere load the data themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from flwr.app import ConfigRecord

from federated.client.workspace import Workspace
from federated.config.run import RunConfig, from_yaml, to_yaml
from federated.data import sets as data
from federated.data.memmap import import_memmap
from federated.data.partition_file import load_partition
from fps_pretrain.common.errors import UserError

_current: dict[tuple[str, str, str], Workspace] = {}


def message_config(
    config: RunConfig,
    partition_file: Path,
    training_data: Path | None = None,
    client_states: Path | None = None,
    classes: Sequence[str] = (),
    run: str = "",
) -> ConfigRecord:
    """What a message tells a client about the run, without what only the server may know.

    Paths are absolute, since a worker may run in another folder.

    Args:
        config: the run.
        partition_file: which client holds which example.
        training_data: what ``export_memmap`` wrote, for clients in other processes of this machine.
        client_states: where clients on this machine keep what they remember.
        classes: the names of the classes, for nodes that have data of their own.
        run: which run this is, for what clients keep.
    """
    kind, _, where = config.dataset.partition(":")
    located = dataclasses.replace(
        config,
        dataset=f"{kind}:{Path(where).resolve()}" if kind in ("folder", "parquet") else config.dataset,
        data_dir=config.data_dir.resolve() if config.data_dir else None,
    )
    message = {
        "run-config": to_yaml(located, for_clients=True),
        "partition-file": str(partition_file.resolve()),
        "run": run,
    }
    for name, path in (("training-data", training_data), ("client-states", client_states)):
        if path:
            message[name] = str(path.resolve())
    return ConfigRecord({**message, **({"classes": list(classes)} if classes else {})})


def share(message: ConfigRecord, workspace: Workspace) -> None:
    """Make ``workspace`` the one that clients in this process find for messages with this configuration."""
    _current.clear()
    _current[_key(message)] = workspace


def close() -> None:
    """Forget this process's workspace, so that its memory is freed."""
    _current.clear()


def find(message: ConfigRecord, node: Mapping[str, object] = MappingProxyType({})) -> Workspace:
    """The workspace for a message's configuration, opened from files if this process has none.

    Args:
        message: what ``message_config`` made.
        node: the configuration of the node; with ``--partition nodes`` it says where its ``data`` are.

    Raises:
        UserError: the node's configuration does not name its data, or the data cannot be used.
    """
    if "classes" in message and "data" not in node:
        raise UserError('--partition nodes: start this node with data="FOLDER" in its --node-config')
    key = _key(message, node)
    if key not in _current:
        close()
        config = from_yaml(key[0])
        torch.set_num_threads(config.threads or 1)
        if config.partition == "nodes":
            _current[key] = _of_node(config, cast(list[str], message["classes"]), node)
        else:
            exported = message.get("training-data")
            dataset = import_memmap(Path(str(exported))) if exported else data.load(config)
            _current[key] = Workspace.build(config, dataset, load_partition(Path(key[1])))
    return _current[key]


def _of_node(config: RunConfig, classes: Sequence[str], node: Mapping[str, object]) -> Workspace:
    train, test = data.load_of_node(Path(str(node["data"])), config, classes)
    return Workspace.build(config, data.Dataset(train, train.none(), test, tuple(classes)), [])


def _key(message: ConfigRecord, node: Mapping[str, object] = MappingProxyType({})) -> tuple[str, str, str]:
    return str(message["run-config"]), str(message["partition-file"]), str(node.get("data", ""))
