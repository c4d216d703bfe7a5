"""A run from its configuration to its final model: begun, resumed, or found finished, on any engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.serverapp import Grid

from federated import algorithms
from federated.client import workspace
from federated.client.batch_norm import with_norm
from federated.client.parts import size_of
from federated.client.state import ClientStates
from federated.config.run import RunConfig, identity
from federated.data import sets
from federated.data.partition import describe, make_partition
from federated.data.partition_file import digest_of
from federated.engines import ray
from federated.engines import start as engines
from federated.engines.pool import EngineFailed
from federated.engines.start import Engine
from federated.server import privacy
from federated.server.client_metrics import reported
from federated.server.evaluation import Evaluator
from federated.server.exchange import Clients
from federated.server.exchange import RunFailed as RunFailed
from federated.server.output import loggers
from federated.server.output.history import Row
from federated.server.output.progress import RoundBar, console, evaluated_head, log, log_file, machine_is_busy
from federated.server.output.run_folder import RunFolder, State
from federated.server.privacy import CentralPrivacy
from federated.server.rounds import Loop, record
from federated.server.start import auto_options, client_statistics, initialise, resume_checks
from federated.server.start.initialise import initial_classifier, initial_encoder
from federated.weights import weights_of
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.trackers import check_installed
from fps_pretrain.models.checkpoint import LoadReport, digest


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it measured; ``resumed_from`` is None for a run that began now."""

    folder: Path
    history: list[Row]
    resumed_from: int | None


def run(config: RunConfig, *, quiet: bool = False, verbose: bool = False, grid: Grid | None = None) -> RunResult:
    """Carry a run to its end: begin it, resume it, or find it finished.

    Args:
        config: the run; its folder holds the results.
        quiet: say nothing on the terminal.
        verbose: say everything that goes to the log.
        grid: nodes to use instead of those of ``config.engine``, one for each client.

    Raises:
        UserError: the run cannot be begun or resumed as asked. Nothing was written.
        RunFailed: too many clients failed. Completed rounds are kept.
    """
    threads = torch.get_num_threads()
    with console(quiet, verbose):
        try:
            return _run(config, quiet, grid)
        finally:
            workspace.close()
            torch.set_num_threads(threads)


def _run(config: RunConfig, quiet: bool, grid: Grid | None) -> RunResult:
    # All that can be refused is refused before the first write, the cheapest first.
    _check_here(config, grid)
    config = auto_options.compiled_if_possible(config)
    folder = RunFolder.find(config.folder, config)
    saved = folder.config() if folder else None
    config = auto_options.with_precision(config, saved)
    state = _state_of(folder, config) if folder else None
    encoder, report = initial_encoder(config)
    init_digest = digest(encoder.state_dict())
    if state and state.init_digest != init_digest:
        raise UserError(
            f"{config.folder} began from other weights than {config.init} holds now: choose another --output"
        )
    if folder and state and state.round == config.rounds and folder.has_model:
        rows = folder.history_until(config.rounds)
        log.info(f"{folder.path} is finished: {config.rounds} rounds, {_accuracy(config, rows[-1])}")
        return RunResult(folder.path, rows, resumed_from=config.rounds)

    dataset = sets.load(config)
    data_digest = dataset.digest()
    if state and state.data_digest != data_digest:
        raise UserError(f"{config.folder} began on other data than {config.dataset} holds now: choose another --output")
    model = with_norm(initial_classifier(config, encoder, len(dataset.classes)), config.norm)
    resumed_from = state.round if state else None
    if folder is None or state is None:
        partition = make_partition(config, dataset.train.labels, dataset.train.user_ids)
        config = auto_options.with_workers(config, None, model, [] if grid else [len(part) for part in partition])
        never = torch.zeros(config.clients, dtype=torch.int64)
        digests = (init_digest, data_digest, digest_of(partition))
        state = State(
            0, weights_of(model), *digests[:2], never, partition_digest=digests[2], run=_run_of(config, *digests)
        )
        folder = RunFolder.create(config.folder, config, dataset, partition, state)
    else:
        partition = folder.load_partition()
        examples = 0 if config.partition == "nodes" else len(dataset.train)
        resume_checks.check_partition(folder.partition_file, partition, state, config.clients, examples)
        resume_checks.check_weights(folder.state_file, state, config, model)
        if grid is None:
            resume_checks.check_client_states(ClientStates(folder.client_states, state.run), state, config)
        config = auto_options.with_workers(config, saved, model, [] if grid else [len(part) for part in partition])
    if config.threads:
        torch.set_num_threads(config.threads)

    with folder.locked(), log_file(folder.path / "log.txt"):
        state = _state_of(folder, config)  # Reload under the lock.
        resume_checks.check_weights(folder.state_file, state, config, model)
        rows = folder.rewind(state.round)
        space = workspace.Workspace.build(config, dataset, partition)
        engine_name = config.engine if grid is None else "the nodes of the grid"
        _announce(space, report, state, resumed=bool(rows), folder=folder.path, engine_name=engine_name)
        with (
            _engine(config, folder, space, state.run, grid) as engine,
            loggers.loggers(config, folder.path, rows) as publish,
            RoundBar(config.rounds, state.round, quiet, evaluated_head(config)) as bar,
        ):
            state = _rounds(config, folder, space, engine, report, state, publish, bar, evaluated=bool(rows))
        folder.keep_best(config, dataset.classes, state)  # killed after its last round, it has it to do yet
        folder.finish(config, dataset.classes, state)
        rows = folder.history()
        failed = sum(len(row["failures"]) for row in rows)
        left_out = f"; {failed} times a client was left out of a round" if failed else ""
        log.info(f"finished: {_accuracy(config, rows[-1])}{left_out}; results in {folder.path}")
    return RunResult(folder.path, rows, resumed_from)


def _accuracy(config: RunConfig, row: Row) -> str:
    """What came out: the accuracy on the test images, or with ``--personal head`` that of the clients' own models."""
    personal = config.personal == "head"
    found = row.get("client_accuracy_mean" if personal else "test_accuracy")
    what = "accuracy at the clients, each with its own head" if personal else "test accuracy"
    return f"{what} {'unknown' if found is None else f'{found:.4f}'}"


def _run_of(config: RunConfig, *digests: str) -> str:
    """Which run this is: what it is to do, and the digests of what it begins with."""
    return hashlib.sha256("\n".join((identity(config), *digests)).encode()).hexdigest()


def _state_of(folder: RunFolder, config: RunConfig) -> State:
    state = folder.load_state()
    resume_checks.check_counts(folder.state_file, state, config)
    return state


def _check_here(config: RunConfig, grid: Grid | None) -> None:
    """Refuse what this machine lacks.

    Raises:
        UserError: it lacks something; the message says what to do.
    """
    if config.engine == "ray" and grid is None:
        ray.check_installed()
    if config.partition == "nodes" and grid is None:
        raise UserError("--partition nodes is for flwr run, where nodes have data of their own: docs/deployment.md")
    check_installed(wandb=config.wandb, mlflow=config.mlflow)
    if config.dp != "none":
        privacy.check_installed()
    workspace.resolve_device(config.device)


def _rounds(
    config: RunConfig,
    folder: RunFolder,
    space: workspace.Workspace,
    engine: Engine,
    report: LoadReport | None,
    state: State,
    publish: loggers.Logger,
    bar: RoundBar,
    *,
    evaluated: bool,
) -> State:
    """The rounds that are left, and round 0, the evaluation before training, where it is missing."""
    states = ClientStates(folder.client_states, state.run) if "client-states" in engine.message_config else None
    clients = None
    if state.round < config.rounds:
        clients = Clients.find(engine, config)
        counts = client_statistics.numbers_of_examples(config, space, clients)
        if state.round == 0:
            state = client_statistics.prepare(config, space, clients, counts, state, folder, bar.client)
    if state.round == 0:
        initialise.write_record(folder.path / "init.yaml", config, report, state.weights)
    if clients:
        clients = clients.with_fixed(space.parts.fixed(state.weights))
    evaluator = Evaluator(config, space, clients, states)
    if not evaluated:
        started = time.perf_counter()
        row = evaluator.first_row(state)
        row.update(train_loss=None, train_accuracy=None, clients=reported({}), participants=[], failures=[])
        record(config, row, started, folder, publish, bar)
    if clients is None:
        return state
    secret = folder.secret() if config.dp != "none" else None
    loop = Loop(
        config=config,
        space=space,
        algorithm=algorithms.load(config),
        clients=clients,
        most_examples=counts.sum(axis=1).tolist(),
        sampling_seed=config.seed if secret is None else secret,
        privacy=None if secret is None else CentralPrivacy.of(config, secret),
    )
    return loop.run(state, folder, publish, evaluator, bar)


def _announce(
    space: workspace.Workspace,
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
        spread = f"{config.clients} nodes with data of their own"
    encoder = f"{config.arch}, width {config.width}, sha256 {state.init_digest[:12]}"
    origin = initialise.describe_provenance(report)
    log.info(f"data    {config.dataset}: {sizes}, {len(dataset.classes)} classes, {config.image_size} px")
    log.info(f"clients {spread} ({config.partition})")
    log.info(f"init    {report or 'random weights'} ({encoder}{origin})")
    if config.init_statistics == "clients":
        log.info("init    BatchNorm's statistics of the clients' images")
    if config.head == "centroid":
        log.info("head    the class means of the clients' features")
    if said := _said_of_parts(space):
        log.info(f"train   {said}")
    log.info(
        f"run     {config.strategy}, {config.rounds} rounds, {engine_name} on {space.device}{_how(config)}, in {folder}"
    )
    if config.threads is None and space.device.type == "cpu" and machine_is_busy():
        # Measured with one other busy process on two cores: 6.7 s a round with one thread, 44 to 91 s with two.
        log.info("this machine is busy, and PyTorch's threads wait for each other: --threads 1 may be much faster")
    if resumed:
        log.info(f"resumed after round {state.round}")


def _said_of_parts(space: workspace.Workspace) -> str:
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
    workers = f"{config.workers} workers" if config.workers else ""
    precision = "bfloat16" if config.precision == "bf16" else ""
    return "".join(f", {part}" for part in (workers, precision, "compiled" if config.compile else "") if part)


@contextmanager
def _engine(
    config: RunConfig, folder: RunFolder, space: workspace.Workspace, run: str, grid: Grid | None
) -> Iterator[Engine]:
    """Start the engine, or use the grid that is given, and end it."""
    if grid is not None:
        yield engines.remote(config, space, folder.partition_file, run, grid)
        return
    try:
        files = (folder.partition_file, folder.training_data, folder.client_states)
        with engines.start(config, space, *files, run) as engine:
            yield engine
    except EngineFailed as error:
        raise RunFailed(str(error)) from error
