"""Options of seeds, evaluation and failures, and of where and how a run is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from fps_pretrain.common.options import MAY_DIFFER, THREADS, Count, Option, OptionSet, Positive, Threads, Whole, Workers
from fps_pretrain.common.serve import Port


@dataclass(frozen=True)
class EvaluationOptions(OptionSet):
    """Seed and evaluation"""

    seed: Whole = 0
    """Seed of the partition, the fresh weights, who takes part and every batch."""
    eval_every: Count = 1
    """Evaluate after every so many rounds, and always after the last."""
    eval_batch_size: Count = 256
    """Examples in a batch of the evaluation."""
    per_client_every: Whole = 0
    """After every so many rounds, and after the last, clients evaluate the global model on test examples like their
    own; 0 never, but after the last with --personal head and --fine-tune-epochs."""
    keep_best: bool = False
    """Keep the model of the round with the highest validation accuracy, the earliest of equals, as best.pt in the run
    folder, beside the last round's model.pt."""
    keep_clients_every: Annotated[Whole, MAY_DIFFER] = 0
    """Keep the clients' models of every so many rounds, and of the last, for experiments.analyses (at most 5 rounds,
    spread over the run); 0 never."""


@dataclass(frozen=True)
class FailureOptions(OptionSet):
    """Failures"""

    client_timeout: Annotated[Positive | None, MAY_DIFFER] = None
    """Seconds a client has for a round; one that takes longer is left out of it (default: no limit)."""
    node_timeout: Annotated[Positive, MAY_DIFFER] = 600.0
    """Seconds that flwr run waits for nodes and for their first answers."""
    min_clients: Annotated[Count, MAY_DIFFER] = 1
    """A round counts if so many clients succeed; otherwise the run stops with exit code 3."""
    inject_failures: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the clients' rounds made to fail: by an error, weights that are not a number or, with --client-timeout,
    slowness."""


@dataclass(frozen=True)
class ExecutionOptions(OptionSet):
    """Where and how a run is computed"""

    engine: Annotated[Literal["inprocess", "ray"], MAY_DIFFER] = "inprocess"
    """How clients are run: in this process (or its --workers), or in parallel by actors on Ray."""
    ray_address: Annotated[str | None, Option(choice="engine", defaults=(("ray", None),), may_differ=True)] = None
    """Ray cluster to join, HOST:PORT, or auto for one on this machine (default: the environment variable RAY_ADDRESS;
    without it Ray is started here and ended with the run)."""
    gpus_per_client: Annotated[Positive | None, Option(choice="engine", defaults=(("ray", None),), may_differ=True)] = (
        None
    )
    """Share of a GPU that a client on Ray gets, such as 0.25 (default: all GPUs spread over the workers)."""
    workers: Annotated[Literal["auto"] | Workers | None, THREADS] = "auto"
    """Processes that train clients side by side; 0 for none, in this process. auto takes one for each core, with one
    thread each, where that is expected to be faster; on Ray one for every --threads cores."""
    device: Annotated[Literal["auto", "cpu", "cuda"], MAY_DIFFER] = "auto"
    """Device that trains and evaluates; auto takes a GPU if there is one."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16: the encoder computes in bfloat16, twice as fast where the hardware multiplies it; weights and what is sent
    stay in 32 bits. auto takes bf16 on such hardware, and what a run began with when it is resumed."""
    compile: Annotated[bool, MAY_DIFFER] = False
    """Compile the encoder with torch.compile for training: a minute at the start, once a process, then more images a
    second (on a CPU it needs a C++ compiler; without one the run goes on uncompiled). Sums are rounded otherwise, as on
    another device."""
    threads: Annotated[Threads | None, THREADS] = None
    """CPU threads of PyTorch for a client (default: 1 in each worker, and with --workers auto; else all cores). Use 1
    on a machine that is busy."""
    tensorboard: Annotated[bool, MAY_DIFFER] = False
    """Write the rounds for TensorBoard, too, into the run folder."""
    wandb: Annotated[bool, MAY_DIFFER] = False
    """Send the rounds to Weights & Biases, too; its environment variables apply (pip install -e '.[wandb]')."""
    mlflow: Annotated[bool, MAY_DIFFER] = False
    """Send the rounds to MLflow, too: to MLFLOW_TRACKING_URI, or without it into the run folder (pip install
    -e '.[mlflow]')."""
    serve: Annotated[Port | None, MAY_DIFFER] = None
    """Show the run folder (or the comparison's) in a browser on this machine while the program runs: a port of
    127.0.0.1, or 0 for a free one."""
    output: Annotated[Path | None, MAY_DIFFER] = None
    """Run folder (default: runs/ and a name made of data set, partition, init and seed, and of the strategy and the
    like where they are not the usual ones)."""

    @property
    def processes(self) -> int:
        """How many processes train clients; 0 where none are asked for, or nobody has said how many."""
        return self.workers if isinstance(self.workers, int) else 0
