"""TensorBoard, Weights & Biases and MLflow, which get a run's rounds beside metrics.jsonl."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from federated.config.run import RunConfig, to_yaml
from federated.server.output import file_names
from federated.server.output.history import Row
from fps_pretrain.common import yaml_file
from fps_pretrain.common.trackers import known_mlflow_run, mlflow_uri, remember_mlflow_run

Logger = Callable[[Row], None]


@contextmanager
def loggers(config: RunConfig, folder: Path, done: Sequence[Row]) -> Iterator[Logger]:
    """A function that takes a round's row to wherever the configuration says.

    Args:
        config: the run.
        folder: the run folder.
        done: the rows of rounds completed before; a resumed run's log has each of them once.
    """
    with ExitStack() as stack:
        chosen: list[Logger] = []
        if config.tensorboard:
            chosen.append(stack.enter_context(_tensorboard(folder, done)))
        if config.wandb:
            chosen.append(stack.enter_context(_wandb(config, folder, done)))
        if config.mlflow:
            chosen.append(stack.enter_context(_mlflow(config, folder, done)))

        def log(row: Row) -> None:
            for logger in chosen:
                logger(row)

        yield log


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row, without the round itself; what was not measured is left out."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "round" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


@contextmanager
def _tensorboard(folder: Path, done: Sequence[Row]) -> Iterator[Logger]:
    from torch.utils.tensorboard import SummaryWriter

    # Written anew from the rows, which are few: an interrupted run may have logged a round that is repeated now.
    shutil.rmtree(folder / file_names.TENSORBOARD, ignore_errors=True)
    with SummaryWriter(str(folder / file_names.TENSORBOARD)) as writer:

        def log(row: Row) -> None:
            for name, value in scalars(row).items():
                writer.add_scalar(name, value, row["round"])
            writer.flush()

        for row in done:
            log(row)
        yield log


@contextmanager
def _wandb(config: RunConfig, folder: Path, done: Sequence[Row]) -> Iterator[Logger]:
    import wandb

    # A run that is resumed, in the same folder with the same configuration, goes on there as the same run.
    text = to_yaml(config, for_clients=True)
    identifier = hashlib.sha256(f"{folder.resolve()}\n{text}".encode()).hexdigest()[:16]
    values = yaml_file.parse(text, "the configuration")
    with wandb.init(id=identifier, name=folder.name, dir=str(folder), config=values, resume="allow") as run:
        # It ignores rounds that it has already: steps only increase.
        for row in done:
            run.log(scalars(row), step=row["round"])
        yield lambda row: run.log(scalars(row), step=row["round"])


LAST_ROUND = "last round"
"""MLflow's tag of a run that says which rounds it has: it would keep a round that is sent twice twice."""


@contextmanager
def _mlflow(config: RunConfig, folder: Path, done: Sequence[Row]) -> Iterator[Logger]:
    import mlflow

    mlflow.set_tracking_uri(mlflow_uri(folder))
    # A run that is resumed in the same folder goes on as the same run.
    known = known_mlflow_run(folder)
    with mlflow.start_run(run_id=known, run_name=folder.name) as run:
        if known is None:
            values = yaml_file.parse(to_yaml(config, for_clients=True), "the configuration")
            mlflow.log_params({name: value for name, value in values.items() if value is not None})
            remember_mlflow_run(folder, run.info.run_id)
        last = int(run.data.tags.get(LAST_ROUND, -1))

        def log(row: Row) -> None:
            mlflow.log_metrics(scalars(row), step=row["round"])
            mlflow.set_tag(LAST_ROUND, row["round"])

        for row in done:
            if row["round"] > last:
                log(row)
        yield lambda row: log(row) if row["round"] > last else None
