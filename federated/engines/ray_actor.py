"""What runs in an actor of the Ray engine: this project's ClientApp."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message

from federated import open_workspace
from federated.client.state import ClientStates
from federated.client.workspace import Workspace
from federated.client_app import client_app
from federated.config.run import from_yaml
from federated.data.partition import Partition
from federated.data.sets import Dataset
from federated.engines.inprocess import InProcessGrid
from federated.messages import whole_number


class ClientActor:
    """Handles messages over data from the node's object store.

    Args:
        num_clients: number of nodes of the grid.
        message_config: what messages tell of the run.
        dataset: its examples, in read-only memory that all actors of a machine share.
        partition: which client holds which example.
        device: where to train, cpu or cuda.
    """

    def __init__(
        self,
        num_clients: int,
        message_config: ConfigRecord,
        dataset: Dataset,
        partition: Partition,
        device: Literal["cpu", "cuda"],
    ) -> None:
        config = dataclasses.replace(from_yaml(str(message_config["run-config"])), device=device)
        torch.set_num_threads(config.threads or 1)
        with warnings.catch_warnings():
            # PyTorch warns of read-only memory. Nobody writes to it.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            open_workspace.share(message_config, Workspace.build(config, dataset, partition))
        self._grid = InProcessGrid(client_app, num_clients)

    def ready(self) -> None:
        """Return once the actor takes messages."""

    def handle(
        self, message: Message, client: int, state: bytes | None, names: Sequence[str], *records: ArrayRecord
    ) -> tuple[Message, bytes | None]:
        """The ClientApp's reply, and the state that the client is left with, if any.

        Args:
            message: the message without its array records.
            client: whom it is for.
            state: what the client remembers of round ``state-round``, or None.
            names: the names of the array records.
            *records: the array records.
        """
        for name, record in zip(names, records, strict=True):
            message.content[name] = record
        told = message.content.config_records["config"]
        with tempfile.TemporaryDirectory(prefix="client-state-") as folder:
            states = ClientStates(Path(folder), str(told["run"]))
            if state is not None:
                states.unpack(client, whole_number(told, "state-round"), state)
            told["client-states"] = folder
            reply = self._grid.handle(message)
            return reply, states.pack(client, whole_number(told, "server-round", 0))
