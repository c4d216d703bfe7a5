"""A run from its configuration to its final model: begun, resumed, or found finished, on any engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.serverapp import Grid
from torch import nn

from federated import algorithms, open_workspace
from federated.client import workspace
from federated.client.batch_norm import with_norm
from federated.client.state import ClientStates
from federated.config.run import RunConfig, identity
from federated.data import sets
from federated.data.partition import Partition, make_partition
from federated.data.partition_file import digest_of
from federated.engines import start as engines
from federated.engines.pool import EngineFailed
from federated.engines.start import Engine
from federated.server.evaluation import Evaluator
from federated.server.exchange import Clients
from federated.server.exchange import Diverged as Diverged
from federated.server.exchange import RunFailed as RunFailed
from federated.server.output import file_names, loggers
from federated.server.output.history import Row
from federated.server.output.progress import RoundBar, console, evaluated_head, log, log_file
from federated.server.output.recorder import Recorder
from federated.server.output.run_folder import RunFolder, State
from federated.server.privacy import CentralPrivacy
from federated.server.rounds import Loop, Round
from federated.server.start import auto_options, client_statistics, initialise, resume_checks
from federated.server.start.announce import announce
from federated.server.start.initialise import initial_classifier, initial_encoder
from federated.weights import weights_of
from fps_pretrain.common import environment
from fps_pretrain.common.errors import KEPT, UserError, check_installed
from fps_pretrain.common.files import keep_existing
from fps_pretrain.common.trackers import check_trackers
from fps_pretrain.common.wording import counted
from fps_pretrain.models.checkpoint import LoadReport
from fps_pretrain.models.checksum import digest
from fps_pretrain.models.hardware import cpu_threads, resolve_device


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it measured; ``resumed_from`` is None for a run that began now."""

    folder: Path
    history: list[Row]
    resumed_from: int | None


def run(
    config: RunConfig, *, resume: bool = True, quiet: bool = False, verbose: bool = False, grid: Grid | None = None
) -> RunResult:
    """Carry a run to its end: begin it, resume it, or find it finished.

    A run that was begun with fewer rounds gets more where that makes no difference to those it has: see
    ``config.run.differences``.

    Args:
        config: the run; its folder holds the results.
        resume: whether to go on with the run that is there, which else is kept beside the new one.
        quiet: say nothing on the terminal.
        verbose: say everything that goes to the log.
        grid: nodes to use instead of those of ``config.engine``, one for each client.

    Raises:
        UserError: the run cannot be begun or resumed as asked. Nothing was written.
        RunFailed: too many clients failed. Completed rounds are kept.
    """
    with console(quiet, verbose), cpu_threads(None):
        try:
            return _run(config, resume, quiet, grid)
        finally:
            open_workspace.close()


def _run(config: RunConfig, resume: bool, quiet: bool, grid: Grid | None) -> RunResult:
    # All that can be refused is refused before the first write, the cheapest first.
    _check_here(config, grid)
    config = auto_options.compiled_if_possible(config)
    folder = RunFolder.find(config.folder, config, resume)
    saved = folder.config() if folder else None
    config = auto_options.with_precision(config, saved)
    state = _state_of(folder, config) if folder else None
    encoder, report = initial_encoder(config)
    init_digest = digest(encoder.state_dict())
    if state:
        resume_checks.check_init(state, config, init_digest)
    if folder and state and state.round == config.rounds and folder.has_model:
        rows = folder.history_until(config.rounds)
        log.info(f"{folder.path} is finished: {counted(config.rounds, 'round')}, {_accuracy(config, rows[-1])}")
        return RunResult(folder.path, rows, resumed_from=config.rounds)

    dataset = sets.load(config)
    if state:
        resume_checks.check_data(state, config, dataset.digest())
    model = with_norm(initial_classifier(config, encoder, len(dataset.classes)), config.norm)
    resumed_from = None
    with ExitStack() as held:
        if folder is None or state is None:
            partition = make_partition(config, dataset.train.labels, dataset.train.user_ids)
        else:
            held.enter_context(folder.locked())  # while another process works there, its files come and go
            state = _state_of(folder, config)
            resumed_from = state.round
            folder.extend(config.rounds)
            partition = resume_checks.checked_partition(
                folder, state, config, dataset, model, elsewhere=grid is not None
            )
        config = auto_options.with_workers(config, saved, model, [] if grid else [len(part) for part in partition])
        if folder is None or state is None:
            if not resume and (config.folder / file_names.CONFIG).exists():
                log.info(KEPT, keep_existing(config.folder))
            folder = _begin(config, dataset, partition, model, init_digest)
            held.enter_context(folder.locked())
            state = _state_of(folder, config)
        if config.threads:
            torch.set_num_threads(config.threads)
        held.enter_context(log_file(folder.path / file_names.LOG))
        resume_checks.check_weights(folder.state_file, state, config, model)
        rows = folder.rewind(state.round)
        if state.round < config.rounds:
            environment.record(folder.path)
        space = workspace.Workspace.build(config, dataset, partition)
        engine_name = config.engine if grid is None else "the nodes of the grid"
        announce(space, report, state, resumed=bool(rows), folder=folder.path, engine_name=engine_name)
        with (
            _engine(config, folder, space, state.run, grid) as engine,
            loggers.loggers(config, folder.path, rows) as publish,
            RoundBar(config.rounds, state.round, quiet, evaluated_head(config)) as bar,
        ):
            recorder = Recorder(config, folder, publish, bar)
            state = _rounds(recorder, space, engine, report, state, evaluated=bool(rows))
        folder.keep_best(config, dataset.classes, state)  # killed after its last round, it has it to do yet
        folder.finish(config, dataset.classes, state)
        rows = folder.history()
        failed = sum(len(row["failures"]) for row in rows)
        left_out = f"; {failed} times a client was left out of a round" if failed else ""
        log.info(f"finished: {_accuracy(config, rows[-1])}{left_out}; results in {folder.path}")
    return RunResult(folder.path, rows, resumed_from)


def _begin(
    config: RunConfig, dataset: sets.Dataset, partition: Partition, model: nn.Module, init_digest: str
) -> RunFolder:
    """Make the folder of a new run, with its state before the first round."""
    digests = (init_digest, dataset.digest(), digest_of(partition))
    run_id = hashlib.sha256("\n".join((identity(config), *digests)).encode()).hexdigest()
    never = torch.zeros(config.clients, dtype=torch.int64)
    state = State(0, weights_of(model), *digests[:2], never, partition_digest=digests[2], run=run_id)
    return RunFolder.create(config.folder, config, dataset, partition, state)


def _accuracy(config: RunConfig, row: Row) -> str:
    """What came out: the accuracy on the test images, or with ``--personal head`` that of the clients' own models."""
    personal = config.personal == "head"
    found = row.get("client_accuracy_mean" if personal else "test_accuracy")
    what = "accuracy at the clients, each with its own head" if personal else "test accuracy"
    return f"{what} {'unknown' if found is None else f'{found:.4f}'}"


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
        check_installed("--engine ray", "Ray", "ray", extra="ray")
    if config.partition == "nodes" and grid is None:
        raise UserError("--partition nodes is for flwr run, where nodes have data of their own: docs/deployment.md")
    check_trackers(wandb=config.wandb, mlflow=config.mlflow)
    if config.dp != "none":
        check_installed("--dp", "dp-accounting", "dp_accounting", extra="dp")
    resolve_device(config.device)


def _rounds(
    recorder: Recorder,
    space: workspace.Workspace,
    engine: Engine,
    report: LoadReport | None,
    state: State,
    *,
    evaluated: bool,
) -> State:
    """The rounds that are left, and round 0, the evaluation before training, where it is missing."""
    config, folder = recorder.config, recorder.folder
    states = ClientStates(folder.client_states, state.run) if "client-states" in engine.message_config else None
    clients = None
    if state.round < config.rounds:
        clients = Clients.find(engine, config)
        counts = client_statistics.numbers_of_examples(config, space, clients)
        if state.round == 0:
            state = client_statistics.prepare(config, space, clients, counts, state, folder, recorder.bar.client)
    if state.round == 0:
        initialise.write_record(folder.path / file_names.INIT, config, report, state.weights, state.data_digest)
    if clients:
        clients = clients.with_fixed(space.parts.fixed(state.weights))
    evaluator = Evaluator(config, space, clients, states)
    if not evaluated:
        started = time.perf_counter()
        recorder.record(Round(state).row(evaluator), started)
    if clients is None:
        return state
    secret = folder.secret() if config.dp != "none" else None
    loop = Loop(
        config=config,
        space=space,
        algorithm=algorithms.load(config),
        clients=clients,
        most_examples=counts.sum(axis=1).tolist(),
        privacy=None if secret is None else CentralPrivacy.of(config, secret, state.run),
    )
    return loop.run(state, recorder, evaluator)


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
