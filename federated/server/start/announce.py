"""What a run says of itself before its first round."""

from __future__ import annotations

from pathlib import Path

import torch

from federated.client.parts import size_of
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.data.partition import describe
from federated.server.output.progress import log, machine_is_busy
from federated.server.output.run_folder import State
from federated.server.start.initialise import describe_provenance
from fps_pretrain.common.wording import counted
from fps_pretrain.models.checkpoint import LoadReport


def announce(
    space: Workspace,
    report: LoadReport | None,
    state: State,
    *,
    resumed: bool,
    folder: Path,
    engine_name: str,
) -> None:
    """Say what is about to run."""
    config, dataset = space.config, space.dataset
    sizes = f"{len(dataset.train)} training, {len(dataset.validation)} validation, {len(dataset.test)} test examples"
    spread = describe(space.partition, dataset.train.labels, len(dataset.classes))
    if config.partition == "nodes":
        spread = f"{counted(config.clients, 'node')} with data of their own"
    encoder = f"{config.arch}, width {config.width}, sha256 {state.init_digest[:12]}"
    origin = describe_provenance(report)
    log.info(f"data    {config.dataset}: {sizes}, {len(dataset.classes)} classes, {config.image_size} px")
    kind = f" ({config.partition})" if config.clients > 1 else ""  # one client holds all data, whatever the partition
    log.info(f"clients {spread}{kind}")
    shuffled = ", its entries shuffled" if config.init.startswith("shuffled:") else ""
    log.info(f"init    {report or 'random weights'}{shuffled} ({encoder}{origin})")
    if config.init_statistics == "clients":
        log.info("init    BatchNorm's statistics of the clients' images")
    if config.head == "centroid":
        log.info("head    the class means of the clients' features")
    if said := _said_of_parts(space):
        log.info(f"train   {said}")
    how = f"{engine_name} on {space.device}{_how(config)}"
    log.info(f"run     {config.strategy}, {counted(config.rounds, 'round')}, {how}, in {folder}")
    many_threads = config.threads is None and not config.processes and torch.get_num_threads() > 1
    if many_threads and space.device.type == "cpu" and machine_is_busy():
        # Measured with one other busy process on two cores: 6.7 s a round with one thread, 44 to 91 s with two.
        log.info("this machine is busy, and PyTorch's threads wait for each other: --threads 1 may be much faster")
    if resumed:
        log.info(f"resumed after round {state.round}")


def _said_of_parts(space: Workspace) -> str:
    """What of the model is trained, sent and kept, unless that is all, all and nothing."""
    config, state = space.config, space.model.state_dict()
    if not (fixed := space.parts.fixed(state)):
        return ""
    trained = {"all": "all", "head": "the head, on features that are computed once", "last-block": "the last block"}
    sizes = [f"{size_of(part) / 1e6:.3f} MB" for part in (space.parts.shared(state), fixed)]
    kept = "; each client keeps its own head" if config.personal == "head" else ""
    return f"{trained[config.train]}: {sizes[0]} a message, {sizes[1]} sent once{kept}"


def _how(config: RunConfig) -> str:
    """What was resolved of how a run is computed, for its announcement."""
    workers = counted(int(config.workers), "worker") if config.workers else ""
    precision = "bfloat16" if config.precision == "bf16" else ""
    return "".join(f", {part}" for part in (workers, precision, "compiled" if config.compile else "") if part)
