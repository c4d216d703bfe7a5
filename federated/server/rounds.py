"""The round loop: what a run does from its configuration to its final model, on any engine.

Flower's strategies say who trains and how replies are combined (``configure_train``, ``aggregate_train``); the loop
over them is our own, because Flower's has no start round, no files and no failures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from federated import algorithms
from federated.client import workspace
from federated.client.batch_norm import pooled_statistics, with_norm, with_own_statistics
from federated.client.failures import HANG_GRACE, last_line, reason_to_drop
from federated.client.state import ClientStates
from federated.client.training import Weights, learning_rate, weights_of
from federated.config.run import RunConfig
from federated.data import sets as data
from federated.data.partition import Partition, describe, describe_counts, make_partition, plot_counts
from federated.engines import ray
from federated.engines import start as engines
from federated.engines.pool import EngineFailed
from federated.engines.start import Engine
from federated.messages import from_record
from federated.server import evaluation, initialise, loggers, privacy
from federated.server.cohort import Federation
from federated.server.initialise import initial_classifier, initial_encoder
from federated.server.progress import RoundBar, console, log, log_file, machine_is_busy
from federated.server.run_folder import Row, RunFolder, State
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import LoadReport, digest


class RunFailed(RuntimeError):
    """A round could not be completed; the run can be resumed from the round before."""


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
            if config.threads:
                torch.set_num_threads(config.threads)
            return _run(config, quiet, grid)
        finally:
            workspace.close()
            torch.set_num_threads(threads)


def _run(config: RunConfig, quiet: bool, grid: Grid | None) -> RunResult:
    # All that can be refused is refused before the first write, the cheapest first.
    if config.engine == "ray" and grid is None:
        ray.check_installed()
    if config.partition == "nodes" and grid is None:
        raise UserError("--partition nodes is for flwr run, where nodes have data of their own: docs/deployment.md")
    loggers.check_installed(config)
    if config.dp != "none":
        privacy.check_installed()
    workspace.resolve_device(config.device)
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
        classifier = initial_classifier(config, encoder, len(dataset.classes))
        weights = weights_of(with_norm(classifier, config.norm))
        never = torch.zeros(config.clients, dtype=torch.int64)
        state = State(0, weights, init_digest, data_digest, client_rounds=never)
        folder = RunFolder.create(config.folder, config, dataset, partition, state)

    with folder.locked(), log_file(folder.path / "log.txt"):
        state = folder.load_state()  # again: until the lock was taken, another process may have gone on
        rows = folder.rewind(state.round)
        space = workspace.Workspace.build(config, dataset, partition)
        engine_name = config.engine if grid is None else "the nodes of the grid"
        _announce(space, report, state, resumed=bool(rows), folder=folder.path, engine_name=engine_name)
        with (
            _engine(config, folder, space, grid) as engine,
            loggers.loggers(config, folder.path, rows) as publish,
        ):
            loop = _Loop(config, folder, space, engine, report, publish)
            with RoundBar(config.rounds, state.round, quiet) as bar:
                state = loop.run(state, bar, evaluated=bool(rows))
        folder.finish(config, dataset.classes, state)
        rows = folder.history()
        failed = sum(len(row["failures"]) for row in rows)
        left_out = f"; {failed} times a client was left out of a round" if failed else ""
        log.info(f"finished: test accuracy {rows[-1]['test_accuracy']:.4f}{left_out}; results in {folder.path}")
    return RunResult(folder.path, rows, resumed_from)


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
    log.info(f"run     {config.strategy}, {config.rounds} rounds, {engine_name} on {space.device}, in {folder}")
    if config.threads is None and space.device.type == "cpu" and machine_is_busy():
        # Measured with one other busy process on two cores: 6.7 s a round with one thread, 44 to 91 s with two.
        log.info("this machine is busy, and PyTorch's threads wait for each other: --threads 1 may be much faster")
    if resumed:
        log.info(f"resumed after round {state.round}")


@contextmanager
def _engine(config: RunConfig, folder: RunFolder, space: workspace.Workspace, grid: Grid | None) -> Iterator[Engine]:
    """Start the engine, or use the grid that is given, and end it."""
    if grid is not None:
        yield engines.lent(config, space, folder.partition_file, grid)
        return
    try:
        with engines.start(config, space, folder.partition_file, folder.training_data, folder.client_states) as engine:
            yield engine
    except EngineFailed as error:
        raise RunFailed(str(error)) from error


@dataclass(frozen=True)
class Round:
    """What came of a round, before the global model is judged.

    Attributes:
        state: the run after it.
        participants: the clients that were asked, in order.
        failures: those that were left out, with the reason.
        client_metrics: what each of the others reported, ``num-examples`` and ``train_loss`` among it.
        metrics: the mean of that.
    """

    state: State
    participants: list[int]
    failures: dict[int, str]
    client_metrics: dict[int, dict[str, Any]]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Loop:
    config: RunConfig
    folder: RunFolder
    space: workspace.Workspace
    engine: Engine
    report: LoadReport | None = None
    publish: loggers.Logger = loggers.nowhere

    def run(self, state: State, bar: RoundBar, evaluated: bool) -> State:
        """All rounds after ``state.round``; returns the state after the last."""
        config = self.config
        partition_of = self._partitions() if state.round < config.rounds else {}
        if state.round == 0:
            state = self._begin(state, partition_of, bar)
        if not evaluated:
            started = time.perf_counter()
            row = {"round": 0, **self.space.evaluate(state.weights), "train_loss": None, "train_accuracy": None}
            if config.per_client_every:
                row.update(self._per_client(state, partition_of))
            self._record({**row, "clients": evaluation.reported({}), "participants": [], "failures": []}, started, bar)
        if state.round == config.rounds:
            return state
        strategy = self._strategy(partition_of)
        strategy.load_state_dict(state.server)
        for server_round in range(state.round + 1, config.rounds + 1):
            started = time.perf_counter()
            result = self._round(server_round, state, strategy, partition_of, bar)
            state = result.state
            self._record(self._measure(result, partition_of), started, bar)
            # Until here a kill loses the round and nothing else; from here on it is done.
            self.folder.save_state(state)
        return state

    def _begin(self, state: State, partition_of: Mapping[int, int], bar: RoundBar) -> State:
        """What the clients are asked before the first round; a run that is resumed there asks again."""
        if self.config.partition == "nodes":
            answers = self._ask_all("query.labels", state, partition_of)
            counts = np.array([answer.config_records["labels"]["counts"] for answer in answers])
            plot_counts(self.folder.path / "partition.png", counts, self.space.dataset.classes)
            log.info(f"clients {describe_counts(counts)}")
        if self.config.init_statistics == "clients":
            answers = self._ask_all("query.batch_norm_sums", state, partition_of, state.weights, bar)
            parts = [from_record(answer.array_records["arrays"]) for answer in answers]
            state = replace(state, weights=pooled_statistics(state.weights, parts))
        if self.config.head == "centroid":
            answers = self._ask_all("query.class_sums", state, partition_of, state.weights, bar)
            sums = [from_record(answer.array_records["arrays"]) for answer in answers]
            pairs = [(part["sums"], part["counts"]) for part in sums]
            state = replace(state, weights=initialise.centroid_head(state.weights, pairs))
        initialise.write_record(self.folder.path / "init.yaml", self.config, self.report, state.weights)
        return state

    def _per_client(self, state: State, partition_of: Mapping[int, int]) -> Row:
        """How the global model does at each client."""
        dataset, weights = self.space.dataset, state.weights
        if self.config.partition == "nodes":
            patience = self._patience(self.config.clients)
            answers, failures = self._ask(MessageType.EVALUATE, state, partition_of, weights, patience=patience)
            for client, reason in failures.items():
                log.info(f"round {state.round}: client {client} is not evaluated: {reason}")
            accuracies = np.full(self.config.clients, np.nan)
            for client, answer in answers.items():
                accuracies[client] = answer.metric_records["metrics"]["accuracy"]
        else:
            accuracies = np.concatenate(
                [
                    evaluation.client_accuracies(
                        self.space.correct_mask(judged), dataset.test, dataset.train, partition, len(dataset.classes)
                    )
                    for judged, partition in self._judged(state)
                ]
            )
        return evaluation.summarise(accuracies)

    def _judged(self, state: State) -> Iterator[tuple[Weights, Partition]]:
        """The weights that clients are judged by and those clients' examples, in client order.

        The global model's for all of them; with ``--bn-stats local`` each has statistics of its own. Nodes elsewhere
        keep theirs to themselves.
        """
        if self.config.bn_stats != "local" or "client-states" not in self.engine.message_config:
            yield state.weights, self.space.partition
            return
        states = ClientStates(self.folder.client_states)
        for client, part in enumerate(self.space.partition):
            own = states.load(client, int(state.client_rounds[client]))
            yield with_own_statistics(state.weights, own), [part]

    def _ask_all(
        self,
        message_type: str,
        state: State,
        partition_of: Mapping[int, int],
        weights: Weights | None = None,
        bar: RoundBar | None = None,
    ) -> list[RecordDict]:
        """What all clients answer, in client order.

        Raises:
            RunFailed: one does not.
        """
        answers, failures = self._ask(message_type, state, partition_of, weights, bar)
        for client, reason in failures.items():
            raise RunFailed(f"client {client} does not answer: {reason}")
        return list(answers.values())

    def _ask(
        self,
        message_type: str,
        state: State,
        partition_of: Mapping[int, int],
        weights: Weights | None = None,
        bar: RoundBar | None = None,
        patience: float | None = None,
    ) -> tuple[dict[int, RecordDict], dict[int, str]]:
        """What clients answer within ``patience`` seconds, and why others do not, both in client order."""
        shared = ArrayRecord(weights or {})
        messages = []
        for node, client in sorted(partition_of.items(), key=lambda pair: pair[1]):
            told = {**self.engine.message_config, "state-round": int(state.client_rounds[client])}
            content = RecordDict({"config": ConfigRecord(told), "arrays": ArrayRecord(dict(shared))})
            messages.append(Message(content, node, message_type))
        answers: dict[int, RecordDict] = {}
        failures = dict.fromkeys(sorted(partition_of.values()), "gave no answer in time")
        for reply in self._exchange(messages, bar, patience):
            client = partition_of[reply.metadata.src_node_id]
            if reply.has_error():
                log.debug(reply.error.reason)
                failures[client] = last_line(reply)
            else:
                answers[client] = reply.content
                del failures[client]
        return {client: answers[client] for client in sorted(answers)}, failures

    def _strategy(self, partition_of: Mapping[int, int]) -> Federation:
        """The algorithm's strategy, made a federation's."""
        config = self.config
        strategy = algorithms.load(config.strategy).build_strategy(config)
        if config.dp != "none":
            strategy = privacy.CentralPrivacy(strategy, config)
        return Federation(strategy, self.space.parameters, config.participants, config.seed, partition_of)

    def _round(
        self, server_round: int, state: State, strategy: Federation, partition_of: Mapping[int, int], bar: RoundBar
    ) -> Round:
        """Ask clients, leave out those that fail, and combine the others' replies.

        Raises:
            RunFailed: fewer than ``--min-clients`` succeeded, or too few for the strategy.
        """
        config, engine = self.config, self.engine
        arrays = ArrayRecord(state.weights)
        messages = list(strategy.configure_train(server_round, arrays, engine.message_config, engine.grid))
        participants = [partition_of[message.metadata.dst_node_id] for message in messages]
        for message, client in zip(messages, participants, strict=True):
            message.content.config_records["config"]["state-round"] = int(state.client_rounds[client])
        replies = {
            partition_of[reply.metadata.src_node_id]: reply
            for reply in self._exchange(messages, bar, self._patience(len(messages)))
        }
        failures = self._failures(server_round, participants, replies)
        good = {client: replies[client] for client in participants if client not in failures}
        if len(good) < config.min_clients:
            first = next(iter(failures))
            raise RunFailed(
                f"{len(failures)} of {len(participants)} clients failed in round {server_round} and --min-clients is "
                f"{config.min_clients}; client {first}: {failures[first]}"
            )
        if len(good) < config.least_replies:
            raise RunFailed(f"{len(good)} replies in round {server_round} are too few for --strategy {config.strategy}")
        reported = {c: dict(reply.content.metric_records["metrics"]) for c, reply in good.items()}
        combined, metrics = strategy.aggregate_train(server_round, list(good.values()))
        assert combined is not None, "no replies"
        weights = from_record(combined)
        if config.bn_stats == "server":
            weights = self.space.estimate_statistics(weights)
        client_rounds = state.client_rounds.clone()
        client_rounds[list(good)] = server_round
        state = replace(
            state, round=server_round, weights=weights, client_rounds=client_rounds, server=strategy.state_dict()
        )
        return Round(state, participants, failures, reported, dict((metrics or {}).items()))

    def _failures(self, server_round: int, participants: list[int], replies: Mapping[int, Message]) -> dict[int, str]:
        """Why which clients are left out of a round, in client order; all of it goes to the log."""
        shapes = {name: t.shape for name, t in self.space.model.state_dict().items() if name in self.space.parameters}
        failures = {}
        for client in participants:
            reply = replies.get(client)
            reason = "gave no answer in time" if reply is None else reason_to_drop(reply, shapes)
            if reason is not None:
                failures[client] = reason
                log.info(f"round {server_round}: client {client} is left out: {reason}")
                if reply is not None and reply.has_error():
                    log.debug(reply.error.reason)
        return failures

    def _measure(self, result: Round, partition_of: Mapping[int, int]) -> Row:
        """A line of metrics.jsonl: all that is measured after a round is measured here."""
        config, server_round = self.config, result.state.round
        row: Row = {"round": server_round, "test_accuracy": None, "test_loss": None, "val_accuracy": None}
        row["val_loss"] = None
        if server_round % config.eval_every == 0 or server_round == config.rounds:
            row.update(self.space.evaluate(result.state.weights))
        last = server_round == config.rounds
        if config.per_client_every and (last or server_round % config.per_client_every == 0):
            row.update(self._per_client(result.state, partition_of))
        row.update(result.metrics)
        row["clients"] = evaluation.reported(result.client_metrics)
        row["participants"] = result.participants
        row["failures"] = [{"client": client, "reason": reason} for client, reason in result.failures.items()]
        return row

    def _record(self, row: Row, started: float, bar: RoundBar) -> None:
        row["lr"] = learning_rate(self.config, row["round"]) if row["round"] else None
        row["seconds"] = round(time.perf_counter() - started, 3)
        self.folder.append(row)
        self.publish(row)
        bar.round(row)

    def _partitions(self) -> dict[int, int]:
        """Node id to partition id, as the nodes themselves tell."""
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in self.engine.grid.get_node_ids()]
        partition_of = {}
        for reply in self._exchange(queries):
            if reply.has_error():
                log.debug(reply.error.reason)
                raise RunFailed(f"node {reply.metadata.src_node_id} does not answer: {last_line(reply)}")
            answer = reply.content.config_records["node"]
            partition_of[reply.metadata.src_node_id] = int(str(answer["partition-id"]))
        if sorted(partition_of.values()) != list(range(self.config.clients)):
            raise RunFailed(f"the nodes hold partitions {sorted(partition_of.values())}, not one for each client")
        return partition_of

    def _patience(self, clients: int) -> float | None:
        """Seconds to wait for clients that may hang: as many turns as they need, each of ``--client-timeout``."""
        timeout, side_by_side = self.config.client_timeout, self.engine.side_by_side
        if timeout is None or side_by_side is None:
            return None
        return timeout * math.ceil(clients / side_by_side) + HANG_GRACE

    def _exchange(
        self, messages: list[Message], bar: RoundBar | None = None, patience: float | None = None
    ) -> list[Message]:
        """Send messages and wait for all replies, error replies among them, or for ``patience`` seconds."""
        end = math.inf if patience is None else time.monotonic() + patience
        pending = set(self.engine.grid.push_messages(messages))
        replies: list[Message] = []
        while pending and time.monotonic() < end:
            arrived = list(self.engine.grid.pull_messages(pending))
            replies += arrived
            pending -= {reply.metadata.reply_to_message_id for reply in arrived}
            if not arrived:
                time.sleep(0.05)
            elif bar:
                bar.client(len(replies), of=len(messages))
        return replies
