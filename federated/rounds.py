"""The round loop: what a run does from its configuration to its final model, on any engine.

Flower's strategies say who trains and how replies are combined (``configure_train``, ``aggregate_train``); the loop
over them is our own, because Flower's has no start round, no files and no failures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from federated import algorithms, data, simulation, workspace
from federated.client_app import client_app
from federated.config import RunConfig
from federated.grid import InProcessGrid
from federated.local import initial_classifier, initial_encoder, learning_rate, weights_of
from federated.partition import describe, make_partition
from federated.progress import RoundBar, console, log, log_file
from federated.records import from_record
from federated.run_folder import Row, RunFolder, State
from fps_pretrain.checkpoint import LoadReport, digest
from fps_pretrain.errors import UserError


class RunFailed(RuntimeError):
    """A round could not be completed; the run can be resumed from the round before."""


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it measured; ``resumed_from`` is None for a run that began now."""

    folder: Path
    history: list[Row]
    resumed_from: int | None


def run(config: RunConfig, *, quiet: bool = False, grid: Grid | None = None) -> RunResult:
    """Carry a run to its end: begin it, resume it, or find it finished.

    Args:
        config: the run; its folder holds the results.
        quiet: say nothing on the terminal.
        grid: nodes to use instead of those of ``config.engine``, one for each client.

    Raises:
        UserError: the run cannot be begun or resumed as asked. Nothing was written.
        RunFailed: a client failed. Completed rounds are kept.
    """
    threads = torch.get_num_threads()
    with console(quiet):
        try:
            if config.threads:
                torch.set_num_threads(config.threads)
            return _run(config, quiet, grid)
        finally:
            workspace.close()
            torch.set_num_threads(threads)


def _run(config: RunConfig, quiet: bool, grid: Grid | None) -> RunResult:
    # All that can be refused is refused before the first write, the cheapest first.
    if config.engine == "ray" and grid is None:
        simulation.check_installed()
    device = workspace.resolve_device(config.device)
    folder = RunFolder.find(config.folder, config)
    state = folder.load_state() if folder else None
    encoder, report = initial_encoder(config)
    init_digest = digest(encoder.state_dict())
    if state and state.init_digest != init_digest:
        raise UserError(
            f"{config.folder} began from other weights than {config.init} holds now: choose another --output"
        )
    if folder and state and state.round == config.rounds and folder.has_model:
        rows = folder.history()
        log.info(f"{folder.path} is finished: {config.rounds} rounds, test accuracy {rows[-1]['test_accuracy']:.4f}")
        return RunResult(folder.path, rows, resumed_from=config.rounds)

    dataset = data.load(config)
    data_digest = dataset.digest()
    if state and state.data_digest != data_digest:
        raise UserError(f"{config.folder} began on other data than {config.dataset} holds now: choose another --output")
    partition = (
        folder.load_partition() if folder else make_partition(config, dataset.train.labels, dataset.train.owners)
    )
    resumed_from = state.round if state else None
    if folder is None or state is None:
        weights = weights_of(initial_classifier(config, encoder, len(dataset.classes)))
        state = State(0, weights, init_digest, data_digest)
        folder = RunFolder.create(config.folder, config, dataset, partition, state)

    with folder.locked(), log_file(folder.path / "log.txt"):
        state = folder.load_state()  # again: until the lock was taken, another process may have gone on
        rows = folder.rewind(state.round)
        space = workspace.Workspace.build(config, dataset, partition)
        _announce(space, report, state, resumed=bool(rows), folder=folder.path)
        message_config = workspace.message_config(config, folder.partition_file)
        workspace.share(message_config, space)
        with _engine(config, device, grid) as (nodes, check):
            loop = _Loop(config, folder, space, nodes, check, message_config)
            with RoundBar(config.rounds, state.round, quiet) as bar:
                state = loop.run(state, bar, evaluated=bool(rows))
        folder.finish(config, dataset.classes, state.weights)
        rows = folder.history()
        log.info(f"finished: test accuracy {rows[-1]['test_accuracy']:.4f}; results in {folder.path}")
    return RunResult(folder.path, rows, resumed_from)


def _announce(
    space: workspace.Workspace, report: LoadReport | None, state: State, *, resumed: bool, folder: Path
) -> None:
    """Say what is about to run."""
    config, dataset = space.config, space.dataset
    sizes = f"{len(dataset.train)} training, {len(dataset.validation)} validation, {len(dataset.test)} test examples"
    spread = describe(space.partition, dataset.train.labels, len(dataset.classes))
    encoder = f"{config.arch}, width {config.width}, sha256 {state.init_digest[:12]}"
    log.info(f"data    {config.dataset}: {sizes}, {len(dataset.classes)} classes, {config.image_size} px")
    log.info(f"clients {spread} ({config.partition})")
    log.info(f"init    {report or 'random weights'} ({encoder})")
    log.info(f"run     {config.strategy}, {config.rounds} rounds, {config.engine} on {space.device}, in {folder}")
    if config.threads is None and space.device.type == "cpu" and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
        # Measured with one other busy process on two cores: 6.7 s a round with one thread, 44 to 91 s with two.
        log.info("this machine is busy, and PyTorch's threads wait for each other: --threads 1 may be much faster")
    if resumed:
        log.info(f"resumed after round {state.round}")


@contextmanager
def _engine(config: RunConfig, device: torch.device, grid: Grid | None) -> Iterator[tuple[Grid, Callable[[], None]]]:
    """The nodes that train, and a function that raises when they cannot answer any more."""
    if grid is None and config.engine == "ray":
        with simulation.ray_grid(config, use_gpu=device.type == "cuda") as lent:
            yield lent
    else:
        yield grid or InProcessGrid(client_app, config.clients), lambda: None


@dataclass(frozen=True)
class _Loop:
    config: RunConfig
    folder: RunFolder
    space: workspace.Workspace
    grid: Grid
    check: Callable[[], None]
    message_config: ConfigRecord

    def run(self, state: State, bar: RoundBar, evaluated: bool) -> State:
        """All rounds after ``state.round``; returns the state after the last."""
        config = self.config
        if not evaluated:
            started = time.perf_counter()
            row = {"round": 0, **self.space.evaluate(state.weights), "train_loss": None, "train_accuracy": None}
            self._record(row, [], started, bar)
        if state.round == config.rounds:
            return state
        partition_of = self._partitions()
        algorithm = algorithms.load(config.strategy)
        strategy = algorithm.build_strategy(config.participation, config.seed, partition_of)
        for server_round in range(state.round + 1, config.rounds + 1):
            started = time.perf_counter()
            messages = list(
                strategy.configure_train(server_round, ArrayRecord(state.weights), self.message_config, self.grid)
            )
            participants = [partition_of[message.metadata.dst_node_id] for message in messages]
            replies = self._exchange(messages, bar)
            failed = {partition_of[reply.metadata.src_node_id]: reply for reply in replies if reply.has_error()}
            if failed:
                first = min(failed)
                others = f" (and {len(failed) - 1} of the other clients)" if len(failed) > 1 else ""
                raise RunFailed(f"client {first} failed in round {server_round}{others}: {_last_line(failed[first])}")
            arrays, metrics = strategy.aggregate_train(server_round, replies)
            if arrays is None:
                raise RunFailed(f"{config.strategy} made nothing of {len(replies)} replies in round {server_round}")
            state = replace(state, round=server_round, weights=from_record(arrays))
            row = {
                "round": server_round,
                "test_accuracy": None,
                "test_loss": None,
                "val_accuracy": None,
                "val_loss": None,
            }
            if server_round % config.eval_every == 0 or server_round == config.rounds:
                row.update(self.space.evaluate(state.weights))
            self._record({**row, **(metrics or {})}, participants, started, bar)
            self.folder.save_state(state)
        return state

    def _record(self, row: Row, participants: list[int], started: float, bar: RoundBar) -> None:
        row["lr"] = learning_rate(self.config, row["round"]) if row["round"] else None
        row["participants"] = participants
        row["seconds"] = round(time.perf_counter() - started, 3)
        self.folder.append(row)
        bar.round(row)

    def _partitions(self) -> dict[int, int]:
        """Node id to partition id, as the nodes themselves tell."""
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in self.grid.get_node_ids()]
        partition_of = {}
        for reply in self._exchange(queries):
            if reply.has_error():
                raise RunFailed(f"node {reply.metadata.src_node_id} does not answer: {_last_line(reply)}")
            answer = reply.content.config_records["node"]
            partition_of[reply.metadata.src_node_id] = int(str(answer["partition-id"]))
        if sorted(partition_of.values()) != list(range(self.config.clients)):
            raise RunFailed(f"the nodes hold partitions {sorted(partition_of.values())}, not one for each client")
        return partition_of

    def _exchange(self, messages: list[Message], bar: RoundBar | None = None) -> list[Message]:
        """Send messages and wait for all replies, error replies among them."""
        pending = set(self.grid.push_messages(messages))
        replies: list[Message] = []
        while pending:
            arrived = list(self.grid.pull_messages(pending))
            replies += arrived
            pending -= {reply.metadata.reply_to_message_id for reply in arrived}
            if not arrived:
                self.check()
                time.sleep(0.05)
            elif bar:
                bar.client(len(replies), of=len(messages))
        return replies


def _last_line(reply: Message) -> str:
    """The last line of an error's reason, which may be a traceback; all of it goes to the log."""
    reason = (reply.error.reason or "no reason given").strip()
    log.debug(reason)
    # Flower's simulation puts a client's message inside the text of an exception of its own.
    return reason.splitlines()[-1].removeprefix("Exception ClientAppException occurred. Message: ").removesuffix("'>")
