"""The round loop: who is asked, what becomes of the replies, and what is measured after a round.

Sampling, order, buffers, privacy, failures and saving are here, once, around the pure functions of an algorithm.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message, MessageType

from federated.algorithms.averaging import mean_metrics
from federated.algorithms.base import Algorithm, Replies, ServerState, Setting, Update, Weights
from federated.client.training import ClientHyperparameters
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.server.arrivals import Arrivals
from federated.server.client_metrics import reported
from federated.server.cohort import sample_clients
from federated.server.evaluation import Evaluator
from federated.server.exchange import Clients, Diverged, RunFailed
from federated.server.output import client_models
from federated.server.output.history import Row
from federated.server.output.progress import RoundBar
from federated.server.output.recorder import Recorder
from federated.server.output.run_folder import RunFolder, State
from federated.server.privacy import CentralPrivacy
from federated.server.replies import TRAINING_METRICS, Expected
from federated.weights import all_finite
from fps_pretrain.common.wording import counted
from fps_pretrain.models.hardware import cpu_threads


@dataclass(frozen=True)
class Round:
    """What came of a round, before the global model is judged; by default nothing, as before the first.

    Attributes:
        state: the run after it.
        participants: the clients that were asked, in order.
        failures: those that were left out, with the reason.
        reports: what the others reported, without their weights.
        metrics: the mean of it.
        models: the others' models, in the rounds of ``--keep-clients-every``.
    """

    state: State
    participants: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    reports: dict[int, Update] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    models: list[Weights] = field(default_factory=list)

    def row(self, evaluator: Evaluator) -> Row:
        """The round's row in the history; of training, None where nobody took part: before the first, or with --dp."""
        row = {**evaluator.row(self.state), **dict.fromkeys(TRAINING_METRICS), **self.metrics}
        row["clients"], row["participants"] = reported(self.reports), self.participants
        row["failures"] = [{"client": client, "reason": reason} for client, reason in self.failures.items()]
        return row


@dataclass(frozen=True)
class Loop:
    """The rounds of a run.

    Args:
        config: the run.
        space: data and model at the server.
        algorithm: what clients and server do.
        clients: the clients, at their nodes.
        most_examples: how many training examples each client has.
        privacy: draws the participants, clips and noises their replies, or None.
    """

    config: RunConfig
    space: Workspace
    algorithm: Algorithm
    clients: Clients
    most_examples: list[int]
    privacy: CentralPrivacy | None = None

    def run(self, state: State, recorder: Recorder, evaluator: Evaluator) -> State:
        """All rounds after ``state.round``; returns the state after the last.

        Raises:
            RunFailed: a round cannot be completed; the rounds before it are kept.
        """
        if state.round == 0:
            state = replace(state, server=self.initial_server_state(state.weights))
        folder = recorder.folder
        folder.keep_best(self.config, self.space.dataset.classes, state)
        for server_round in range(state.round + 1, self.config.rounds + 1):
            started = time.perf_counter()
            result = self.round(server_round, state, recorder.bar)
            self._keep_client_models(folder, state, result)
            state = result.state
            recorder.record(result.row(evaluator), started)
            folder.save_state(state)  # Commit point of the round.
            folder.keep_best(self.config, self.space.dataset.classes, state)
        return state

    def _keep_client_models(self, folder: RunFolder, before: State, result: Round) -> None:
        """Write the round's models for analyses, in the rounds of ``--keep-clients-every``."""
        if result.models:
            models = client_models.ClientModels(
                round=result.state.round,
                clients=list(result.reports),
                examples=[report.num_examples for report in result.reports.values()],
                start=before.weights,
                updates=result.models,
                result=result.state.weights,
            )
            client_models.save(folder.path, models)

    def _keeps_models(self, server_round: int) -> bool:
        every = self.config.keep_clients_every
        return every > 0 and (server_round % every == 0 or server_round == self.config.rounds)

    def initial_server_state(self, weights: Weights) -> ServerState:
        """What the server remembers before the first round."""
        state = self.algorithm.init(self._combined_part(weights), self._setting(0))
        return {**state, **(self.privacy.init() if self.privacy else {})}

    def round(self, server_round: int, state: State, bar: RoundBar) -> Round:
        """Ask clients, leave out those that fail, and combine the others' replies while they arrive.

        Raises:
            RunFailed: fewer than ``--min-clients`` succeeded, or too few for the algorithm, or what it made of the
                replies is not finite; ``Diverged`` in the last case, and where all that failed did so by diverging.
        """
        config = self.config
        participants = self._participants(server_round)
        told = {
            client: {"server-round": server_round, "state-round": int(state.client_rounds[client])}
            for client in participants
        }
        shared = self.space.parts.shared(state.weights)
        replies = self.clients.send(
            MessageType.TRAIN,
            participants,
            {"arrays": shared, **{name: state.server[name] for name in self.algorithm.sent}},
            told,
            group=str(server_round),
            patience=self.clients.patience,
            arrived=bar.client,
        )
        asked = [self.most_examples[client] for client in participants]
        params = self._combined_part(state.weights)
        arrivals = Arrivals(
            server_round,
            self._expected(),
            participants,
            asked,
            params,
            robust=self.algorithm.options.robust,
            keep_models=self._keeps_models(server_round),
        )
        updates = self._enough(server_round, arrivals, replies)
        weights, server, metrics = self._combine(server_round, state, params, arrivals, Replies(updates, asked))
        if not all_finite(weights) or not all(all_finite(entry) for entry in server.values()):
            raise Diverged(
                f"what --strategy {config.strategy} made of the replies in round {server_round} is not finite: lower "
                "--lr or --server-lr"
            )
        if config.bn_stats == "server":
            with _threads_of_a_client(config):
                weights = self.space.estimate_statistics(weights)
        client_rounds = state.client_rounds.clone()
        client_rounds[list(arrivals.reports)] = server_round
        following = replace(state, round=server_round, weights=weights, client_rounds=client_rounds, server=server)
        return Round(following, participants, arrivals.failures, arrivals.reports, metrics, arrivals.models)

    def _participants(self, server_round: int) -> list[int]:
        if self.privacy:
            return self.privacy.sample_clients(server_round)
        return sample_clients(self.config.seed, server_round, self.config.clients, self.config.participants)

    def _expected(self) -> Expected:
        parts = self.space.parts
        like = parts.shared(self.space.model.state_dict())
        return Expected.of(self.algorithm, like, parts.parameters, self.config.sends_buffers)

    def _enough(
        self, server_round: int, arrivals: Arrivals, replies: Iterable[tuple[int, Message | None]]
    ) -> Iterator[Update]:
        """The updates of a round, which fails at their end if there were too few.

        Raises:
            RunFailed: as said.
        """
        yield from arrivals.updates(replies)
        config, failures, good = self.config, arrivals.failures, len(arrivals.reports)
        asked = good + len(failures)
        failed = Diverged if len(arrivals.diverged) == len(failures) else RunFailed
        # With --dp fewer clients may be asked, even none, in whose place there is noise.
        if good < min(config.min_clients, asked):
            first = next(iter(failures))
            raise failed(
                f"{len(failures)} of {counted(asked, 'client')} failed in round {server_round} and --min-clients is "
                f"{config.min_clients}; client {first}: {failures[first]}"
            )
        if good < min(config.least_replies, asked):
            raise failed(f"{good} replies in round {server_round} are too few for --strategy {config.strategy}")

    def _combine(
        self, server_round: int, state: State, params: Weights, arrivals: Arrivals, replies: Replies
    ) -> tuple[Weights, ServerState, dict[str, float]]:
        """The next weights, what the server remembers, and the mean metrics.

        Shared parameters are what algorithms combine. Shared buffers, BatchNorm's statistics, are averaged by examples
        beside them, and what clients do not send stays as it is. For a robust algorithm floating point buffers are
        combined with the parameters, by the same rule: otherwise one liar would spoil them.
        """
        release = self.privacy.release(state.server, params, server_round) if self.privacy else None
        if release:
            replies = release.of(replies)
        combined = self.algorithm.combine(state.server, params, replies, self._setting(server_round))
        metrics, reports = combined.metrics, arrivals.reports.values()
        if release or metrics is None:
            counts = [1 if release else report.num_examples for report in reports]
            metrics = mean_metrics([report.metrics for report in reports], counts)
        weights = {**state.weights, **arrivals.buffers(), **combined.params}
        if release is None:
            return weights, combined.state, metrics
        return weights, {**combined.state, **release.state()}, {**metrics, **release.metrics()}

    def _combined_part(self, weights: Weights) -> Weights:
        """What the algorithm combines: the parameters, and for a robust one the floating point buffers clients send."""
        robust = self.algorithm.options.robust and self.config.sends_buffers
        parts = self.space.parts
        floating = {name for name in parts.buffers if weights[name].is_floating_point()} if robust else set()
        return {name: tensor for name, tensor in weights.items() if name in parts.parameters or name in floating}

    def _setting(self, server_round: int) -> Setting:
        config = self.config
        hyper = ClientHyperparameters.of(config, server_round) if server_round else None
        options = self.algorithm.options
        return Setting(options, config.clients, config.participants, config.lr, server_round, hyper)


def _threads_of_a_client(config: RunConfig) -> AbstractContextManager[None]:
    """As many threads for this process as a client has: sums depend on them, and no result on where clients are."""
    elsewhere = config.processes or config.engine == "ray"
    return cpu_threads(config.threads or 1 if elsewhere else None)
