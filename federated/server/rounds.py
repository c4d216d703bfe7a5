"""The round loop: who is asked, what becomes of the replies, and what is measured after a round.

Sampling, order, buffers, privacy, failures and saving are here, once, around the pure functions of an algorithm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message, MessageType

from federated.algorithms.averaging import lower_median, mean_metrics, weighted_mean
from federated.algorithms.base import Algorithm, ServerState, Setting, Update, Weights
from federated.client.training import learning_rate
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.server.cohort import sample_clients
from federated.server.evaluation import reported
from federated.server.exchange import NO_ANSWER, Clients, RunFailed
from federated.server.judge import Judge
from federated.server.output import client_models, loggers
from federated.server.output.progress import RoundBar, log
from federated.server.output.run_folder import Row, RunFolder, State
from federated.server.privacy import CentralPrivacy
from federated.server.replies import BadReply, Expected


@dataclass(frozen=True)
class Round:
    """What came of a round, before the global model is judged.

    Attributes:
        state: the run after it.
        participants: the clients that were asked, in order.
        failures: those that were left out, with the reason.
        updates: what the others sent.
        metrics: the mean of what they reported.
    """

    state: State
    participants: list[int]
    failures: dict[int, str]
    updates: dict[int, Update]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Loop:
    """The rounds of a run.

    Args:
        config: the run.
        space: data and model at the server.
        algorithm: what clients and server do.
        clients: the clients, at their nodes.
        most_examples: how many training examples each client has.
        sampling_seed: fixes who takes part; with ``--dp`` the server's secret, else the run's seed.
        privacy: clips and noises the replies, or None.
    """

    config: RunConfig
    space: Workspace
    algorithm: Algorithm
    clients: Clients
    most_examples: list[int]
    sampling_seed: int
    privacy: CentralPrivacy | None = None

    def run(self, state: State, folder: RunFolder, publish: loggers.Logger, judge: Judge, bar: RoundBar) -> State:
        """All rounds after ``state.round``; returns the state after the last.

        Raises:
            RunFailed: a round cannot be completed; the rounds before it are kept.
        """
        if state.round == 0:
            state = replace(state, server=self.initial_server_state(state.weights))
        folder.keep_best(self.config, self.space.dataset.classes, state)
        for server_round in range(state.round + 1, self.config.rounds + 1):
            started = time.perf_counter()
            result = self.round(server_round, state, bar)
            self._keep_client_models(folder, state, result)
            state = result.state
            row = {**judge.row(state), **result.metrics, "clients": reported(result.updates)}
            row["participants"] = result.participants
            row["failures"] = [{"client": client, "reason": reason} for client, reason in result.failures.items()]
            record(self.config, row, started, folder, publish, bar)
            folder.save_state(state)  # Commit point of the round.
            folder.keep_best(self.config, self.space.dataset.classes, state)
        return state

    def _keep_client_models(self, folder: RunFolder, before: State, result: Round) -> None:
        """Write the round's models for analyses, in the rounds of ``--keep-clients-every``."""
        every, number = self.config.keep_clients_every, result.state.round
        if not every or (number % every and number != self.config.rounds):
            return
        updates = result.updates
        models = client_models.ClientModels(
            round=number,
            clients=list(updates),
            examples=[update.num_examples for update in updates.values()],
            start=before.weights,
            updates=[update.weights for update in updates.values()],
            result=result.state.weights,
        )
        client_models.save(folder.path, models)

    def initial_server_state(self, weights: Weights) -> ServerState:
        """What the server remembers before the first round."""
        state = self.algorithm.init(self._combined_part(weights), self._setting(0))
        return {**state, **(self.privacy.init() if self.privacy else {})}

    def round(self, server_round: int, state: State, bar: RoundBar) -> Round:
        """Ask clients, leave out those that fail, and combine the others' replies.

        Raises:
            RunFailed: fewer than ``--min-clients`` succeeded, or too few for the algorithm.
        """
        config = self.config
        participants = sample_clients(self.sampling_seed, server_round, config.clients, config.participants)
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
            patience=self.clients.patience(len(participants)),
            arrived=bar.client,
        )
        updates, failures = self._read(server_round, participants, replies)
        self._check_enough(server_round, participants, failures)
        weights, server, metrics = self._combine(server_round, state, list(updates.values()))
        if config.bn_stats == "server":
            weights = self.space.estimate_statistics(weights)
        client_rounds = state.client_rounds.clone()
        client_rounds[list(updates)] = server_round
        following = replace(state, round=server_round, weights=weights, client_rounds=client_rounds, server=server)
        return Round(following, participants, failures, updates, metrics)

    def _read(
        self, server_round: int, participants: list[int], replies: Mapping[int, Message]
    ) -> tuple[dict[int, Update], dict[int, str]]:
        """The replies that can be used, and why others cannot, both in client order; the log has the reasons."""
        parts, buffers = self.space.parts, self.config.bn_stats != "server"
        like = parts.shared(self.space.model.state_dict())
        expected = Expected.of(self.algorithm, like, parts.parameters, buffers)
        updates, failures = {}, {}
        for client in participants:
            reply = replies.get(client)
            try:
                if reply is None:
                    raise BadReply(NO_ANSWER)
                updates[client] = expected.read(reply, self.most_examples[client])
            except BadReply as bad:
                failures[client] = str(bad)
                log.info(f"round {server_round}: client {client} is left out: {bad}")
                if reply is not None and reply.has_error():
                    log.debug(reply.error.reason)
        return updates, failures

    def _check_enough(self, server_round: int, participants: list[int], failures: Mapping[int, str]) -> None:
        config, good = self.config, len(participants) - len(failures)
        if good < config.min_clients:
            first = next(iter(failures))
            raise RunFailed(
                f"{len(failures)} of {len(participants)} clients failed in round {server_round} and --min-clients is "
                f"{config.min_clients}; client {first}: {failures[first]}"
            )
        if good < config.least_replies:
            raise RunFailed(f"{good} replies in round {server_round} are too few for --strategy {config.strategy}")

    def _combine(
        self, server_round: int, state: State, updates: list[Update]
    ) -> tuple[Weights, ServerState, dict[str, float]]:
        """The next weights, what the server remembers, and the mean metrics.

        Shared parameters are what algorithms combine. Shared buffers, BatchNorm's statistics, are averaged by examples
        beside them, and what clients do not send stays as it is. For a robust algorithm floating point buffers are
        combined with the parameters, by the same rule: otherwise one liar would spoil them.
        """
        params = self._combined_part(state.weights)
        parts = [update._replace(weights={n: update.weights[n] for n in params}) for update in updates]
        rest = [{name: t for name, t in update.weights.items() if name not in params} for update in updates]
        counts = [update.num_examples for update in updates]
        released_state: ServerState = {}
        released_metrics: dict[str, float] = {}
        if self.privacy:
            parts, released_state, released_metrics = self.privacy.release(state.server, params, parts, server_round)
        combined = self.algorithm.combine(state.server, params, parts, self._setting(server_round))
        metrics = combined.metrics
        if metrics is None:
            metrics = mean_metrics([part.metrics for part in parts], [part.num_examples for part in parts])
        buffers: Weights = {}
        if rest[0]:
            buffers = lower_median(rest) if self.algorithm.options.robust else weighted_mean(rest, counts)
        weights = {**state.weights, **buffers, **combined.params}
        return weights, {**combined.state, **released_state}, {**metrics, **released_metrics}

    def _combined_part(self, weights: Weights) -> Weights:
        """What the algorithm combines: the parameters, and for a robust one the floating point buffers clients send."""
        robust = self.algorithm.options.robust and self.config.bn_stats != "server"
        parts = self.space.parts
        floating = {name for name in parts.buffers if weights[name].is_floating_point()} if robust else set()
        return {name: tensor for name, tensor in weights.items() if name in parts.parameters or name in floating}

    def _setting(self, server_round: int) -> Setting:
        config = self.config
        return Setting(self.algorithm.options, config.clients, config.participants, config.lr, server_round)


def record(
    config: RunConfig, row: Row, started: float, folder: RunFolder, publish: loggers.Logger, bar: RoundBar
) -> None:
    """Append a row to the run's history, with its learning rate and how long it took, and show it."""
    row["lr"] = learning_rate(config, row["round"]) if row["round"] else None
    row["seconds"] = round(time.perf_counter() - started, 3)
    folder.append(row)
    publish(row)
    bar.round(row)
