"""Where a run's values go: CSV and TensorBoard in the run folder and, if asked for, MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from fps_pretrain.common.trackers import known_mlflow_run, mlflow_uri, remember_mlflow_run
from fps_pretrain.config.pretrain import PretrainConfig


def loggers(config: PretrainConfig, *, first: bool) -> list[Logger]:
    """The loggers of a run; the CSV of the losses is the first.

    Args:
        config: a resolved configuration, whose run folder is open.
        first: whether this is the process that reports.
    """
    assert config.run_dir is not None
    made: list[Logger] = [CSVLogger(config.run_dir, name="csv"), TensorBoardLogger(config.run_dir, name="tensorboard")]
    if config.mlflow and first:
        mlflow = OnceMLFlowLogger(config.run_dir)
        if mlflow.is_new:
            mlflow.log_hyperparams({name: value for name, value in config.to_dict().items() if value is not None})
            assert mlflow.run_id is not None
            remember_mlflow_run(config.run_dir, mlflow.run_id)
        made.append(mlflow)
    return made


class OnceMLFlowLogger(MLFlowLogger):
    """Lightning's MLflow logger for a run that may be resumed, in a run folder.

    A resumed run repeats the steps since its last saved state. MLflow would keep their values twice.
    """

    def __init__(self, folder: Path) -> None:
        known = known_mlflow_run(folder)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        super().__init__(experiment, folder.name, mlflow_uri(folder), run_id=known)
        self.is_new = known is None
        self._last: dict[str, int] = {}
        if known is not None:
            client = self.experiment
            for name in client.get_run(known).data.metrics:
                self._last[name] = max(value.step for value in client.get_metric_history(known, name))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the values of a step that MLflow does not have."""
        new = {name: value for name, value in metrics.items() if step is None or step > self._last.get(name, -1)}
        if new:
            super().log_metrics(new, step)
