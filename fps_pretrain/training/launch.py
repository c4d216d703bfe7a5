"""The processes of a run agree on how it begins, before any of them trains.

Only rank 0 opens the run folder. What it decides (the state that all resume from, the precision, or that there is
nothing to train) reaches the others in one of two ways:

- srun, torchrun and the like start all processes at once: they join the process group that will train, and rank 0
  broadcasts its decision. It also does so when it fails, so that nobody waits for a process that is gone.
- Started alone, rank 0 decides first and Lightning starts the others later; an environment variable tells them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from fps_pretrain.common.cli import EXIT_INTERRUPTED
from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig

_START = "FPS_PRETRAIN_START"
"""Environment variable with rank 0's decision, for the processes that Lightning starts."""


@dataclass(frozen=True)
class Start:
    """How a run begins, as rank 0 has decided.

    Attributes:
        state: name of the file in the run folder to resume from; None to begin with random weights.
        precision: ``--precision``, resolved.
        exit_code: what all processes end with at once; None to train.
    """

    state: str | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"
    exit_code: int | None = None


def _environment() -> ClusterEnvironment:
    """Who has started this process, asked in Lightning's order."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if kind.detect():
            return kind()  # type: ignore[abstract]
    return LightningEnvironment()


class Processes:
    """The processes that train together, seen from one of them.

    Args:
        config: a configuration.
        gpu: whether they train on GPUs.

    Raises:
        UserError: the launcher has started another number of processes than the configuration names.
    """

    def __init__(self, config: PretrainConfig, gpu: bool) -> None:
        self.gpu = gpu
        self.environment: ClusterEnvironment | None = None
        self.rank = 0
        if config.world_size == 1:
            return
        self.environment = environment = _environment()
        self.world_size = config.world_size
        if config.nodes > 1 and not environment.creates_processes_externally:
            raise UserError(f"--nodes {config.nodes}: start the processes of all nodes with srun or torchrun")
        try:
            environment.validate_settings(config.devices, config.nodes)
        except ValueError as error:
            raise UserError(f"--devices {config.devices} --nodes {config.nodes}: {error}") from error
        environment.set_world_size(config.world_size)
        environment.set_global_rank(environment.node_rank() * config.devices + environment.local_rank())
        self.rank = environment.global_rank()

    @property
    def started_together(self) -> bool:
        """Whether a launcher has started all processes, so that the others are waiting for rank 0 now."""
        return self.environment is not None and self.environment.creates_processes_externally

    def agree(self, decide: Callable[[], Start]) -> Start:
        """Rank 0's decision, in every process.

        Args:
            decide: called by rank 0 alone; what it raises ends the other processes with the same exit code.
        """
        if self.rank and _START in os.environ:
            return Start(**json.loads(os.environ[_START]))
        if self.started_together:
            self._join()
        if self.rank:
            return self._broadcast(None)
        try:
            start = decide()
        except BaseException as error:
            code = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
            if self.started_together:
                self._broadcast(Start(exit_code=code))
            raise
        return self._broadcast(start) if self.started_together else start

    def _join(self) -> None:
        """Join the process group in which training will exchange gradients; Lightning uses the one it finds."""
        assert self.environment is not None
        if self.gpu:
            torch.cuda.set_device(self.environment.local_rank())
        os.environ["MASTER_ADDR"] = self.environment.main_address
        os.environ["MASTER_PORT"] = str(self.environment.main_port)
        backend = "nccl" if self.gpu else "gloo"
        torch.distributed.init_process_group(backend, rank=self.rank, world_size=self.world_size)

    def _broadcast(self, start: Start | None) -> Start:
        box = [None if start is None else asdict(start)]
        torch.distributed.broadcast_object_list(box, src=0)
        assert box[0] is not None
        return Start(**box[0])

    @contextmanager
    def telling_children(self, start: Start) -> Iterator[None]:
        """While this lasts, processes that rank 0 starts find ``start`` in their environment."""
        if self.rank or self.started_together or self.environment is None:
            yield
            return
        os.environ[_START] = json.dumps(asdict(start))
        try:
            yield
        finally:
            os.environ.pop(_START, None)

    def leave(self) -> None:
        """Leave the process group, if there is one."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
