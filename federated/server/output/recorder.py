"""Where the rounds of a run go: its folder, the loggers that were asked for, and the terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass

from federated.client.training import learning_rate
from federated.config.run import RunConfig
from federated.server.output.history import Row
from federated.server.output.loggers import Logger
from federated.server.output.progress import RoundBar
from federated.server.output.run_folder import RunFolder


@dataclass(frozen=True)
class Recorder:
    """Writes down what rounds came to, and shows it.

    Attributes:
        config: the run.
        folder: its folder.
        publish: takes each round's row to the loggers.
        bar: shows rounds, and the clients of the current one.
    """

    config: RunConfig
    folder: RunFolder
    publish: Logger
    bar: RoundBar

    def record(self, row: Row, started: float) -> None:
        """Append a row to the run's history, and show it.

        Args:
            row: what the round came to; its learning rate and seconds are added.
            started: when it began, by ``time.perf_counter``.
        """
        row["lr"] = learning_rate(self.config, row["round"]) if row["round"] else None
        row["seconds"] = round(time.perf_counter() - started, 3)
        self.folder.append(row)
        self.publish(row)
        self.bar.round(row)
