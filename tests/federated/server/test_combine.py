"""What the round does around any algorithm: who takes part, in which order, and what becomes of buffers."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from federated import algorithms
from federated.algorithms import fedavg
from federated.algorithms.base import Combined, Replies, ServerState, Setting, Update, Weights
from federated.client.parts import Parts
from federated.client.training import ClientHyperparameters, effective_steps, steps_in_a_round
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.engines.start import Engine
from federated.messages import from_record
from federated.server.cohort import sample_clients
from federated.server.exchange import Clients, Diverged
from federated.server.output.progress import RoundBar
from federated.server.output.run_folder import State
from federated.server.rounds import Loop
from tests.federated.conftest import mean_of

PARAMETERS = frozenset({"weight", "affine"})
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
STRATEGIES = algorithms.names()
NEED_ALL = ("qfedavg", "median", "trimmedmean", "krum", "multikrum", "bulyan")
ROBUST = ("median", "trimmedmean", "krum", "multikrum", "bulyan")
CLIENTS = 7


def model(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "running_mean": torch.randn(4, generator=generator),
        "running_var": torch.rand(4, generator=generator),
        "affine": torch.randn(4, generator=generator),
        "num_batches_tracked": torch.tensor(seed * 7 % 5),
    }


class Answering(InProcessGrid):
    """Nodes that answer every training message with a model of their own, in any order of arrival."""

    def __init__(self, strategy: str, order: tuple[int, ...] = tuple(range(CLIENTS)), **changed: Any) -> None:
        super().__init__(ClientApp(), CLIENTS)
        self.strategy, self.order, self.changed = strategy, order, changed
        self.received: list[Message] = []
        self.pulled = 0

    def handle(self, message: Message) -> Message:
        client = message.metadata.dst_node_id - 2
        if message.metadata.message_type == "query":
            return Message(RecordDict({"node": ConfigRecord({"partition-id": client})}), reply_to=message)
        self.received.append(message)
        weights = self.changed.get("weights_of", model)(client + 2)
        metrics: dict[str, Any] = {"num-examples": 3 * (client + 2), "train_loss": 0.1 * client, "train_accuracy": 0.5}
        metrics.update({"fednova": {"effective_steps": 5.0}, "qfedavg": {"initial_loss": 1.0}}.get(self.strategy, {}))
        content = RecordDict({"arrays": ArrayRecord(weights), "metrics": MetricRecord(metrics)})
        if self.strategy == "scaffold":
            content["control"] = ArrayRecord({name: weights[name] for name in weights if name in PARAMETERS})
        return Message(content, reply_to=message)

    def pull_messages(self, message_ids: Any) -> Any:
        waiting = {message.metadata.dst_node_id - 2: key for key, message in self._pending.items()}
        first = next((client for client in self.order if client in waiting), None)
        return [] if first is None else [self.handle(self._pending.pop(waiting[first]))]


def loop(strategy: str, grid: InProcessGrid | None = None, **fields: Any) -> Loop:
    config = RunConfig(strategy=strategy, clients=CLIENTS, **fields)
    space = SimpleNamespace(
        parts=Parts(PARAMETERS, frozenset(BUFFERS), frozenset()),
        model=SimpleNamespace(state_dict=lambda: model(0)),
        estimate_statistics=lambda weights: weights,
    )
    return Loop(
        config=config,
        space=cast(Workspace, space),
        algorithm=algorithms.load(config),
        clients=Clients.find(Engine(grid or Answering(strategy), ConfigRecord({"run-config": "x"})), config),
        most_examples=[1000] * CLIENTS,
    )


def begin(rounds: Loop, server: ServerState | None = None) -> State:
    server = rounds.initial_server_state(model(0)) if server is None else server
    return State(0, model(0), "", "", torch.zeros(CLIENTS, dtype=torch.int64), server)


def after(rounds: Loop, state: State) -> State:
    with RoundBar(9, 0, quiet=True) as bar:
        return rounds.round(state.round + 1, state, bar).state


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ROBUST])
def test_buffers_are_averaged_and_never_optimised(strategy: str) -> None:
    rounds = loop(strategy)
    weights = after(rounds, begin(rounds)).weights
    assert list(weights) == list(model(0))
    assert {name: tensor.dtype for name, tensor in weights.items()} == {n: t.dtype for n, t in model(0).items()}
    sent = [model(client + 2) for client in range(CLIENTS)]
    expected = mean_of(sent, [3 * (client + 2) for client in range(CLIENTS)])
    for buffer in BUFFERS:
        assert torch.equal(weights[buffer], expected[buffer])
    assert not torch.equal(weights["weight"], model(0)["weight"])


@pytest.mark.parametrize("strategy", ROBUST)
def test_a_liar_does_not_spoil_the_buffers_of_a_robust_algorithm(strategy: str) -> None:
    """One client sends honest parameters and absurd statistics."""

    def honest(seed: int) -> dict[str, Tensor]:
        near = {name: tensor.clone() for name, tensor in model(0).items()}
        for name, tensor in model(seed).items():
            near[name] = near[name] + 0.01 * tensor.abs() if tensor.is_floating_point() else torch.tensor(seed)
        return near

    def weights_of(seed: int) -> dict[str, Tensor]:
        sent = honest(seed)
        if seed == 5:
            sent["running_mean"], sent["running_var"] = torch.full((4,), 1e6), torch.full((4,), 1e9)
            sent["num_batches_tracked"] = torch.tensor(2**60)
        return sent

    rounds = loop(strategy, Answering(strategy, weights_of=weights_of))
    weights = after(rounds, begin(rounds)).weights
    assert {name: tensor.dtype for name, tensor in weights.items()} == {n: t.dtype for n, t in model(0).items()}
    for buffer in ("running_mean", "running_var"):
        assert (weights[buffer] - model(0)[buffer]).abs().max() < 0.1, buffer
    assert 2 <= int(weights["num_batches_tracked"]) <= 8
    fooled = loop("fedavg", Answering("fedavg", weights_of=weights_of))
    assert after(fooled, begin(fooled)).weights["running_var"].max() > 1e6, "the mean is not robust: this is a real lie"


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "median"])
def test_buffers_that_are_not_sent_stay_the_servers(strategy: str) -> None:
    def weights_of(seed: int) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in model(seed).items() if name in PARAMETERS}

    rounds = loop(strategy, Answering(strategy, weights_of=weights_of), bn_stats="server")
    weights = after(rounds, begin(rounds)).weights
    assert all(torch.equal(weights[name], model(0)[name]) for name in BUFFERS)


@pytest.mark.parametrize("strategy", ["fedavg", "krum", "scaffold"])
def test_arrival_order_does_not_matter(strategy: str) -> None:
    outcomes = []
    for order in list(permutations(range(CLIENTS)))[::700]:
        rounds = loop(strategy, Answering(strategy, order))
        with RoundBar(9, 0, quiet=True) as bar:
            result = rounds.round(1, begin(rounds), bar)
        outcomes.append(({name: t.numpy().tobytes() for name, t in result.state.weights.items()}, result.metrics))
    assert len(outcomes) == 8
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ROBUST])
def test_those_that_do_not_answer_count_for_nothing(strategy: str) -> None:
    """Nobody knows beforehand who answers; the sum that was begun for all is made that of those who did."""
    algorithm, params = algorithms.load(RunConfig(strategy=strategy)), {"weight": model(0)["weight"]}
    hyper = ClientHyperparameters(0.1, 0.9, 0.0, 2, 4, "none")
    setting = Setting(algorithm.options, 9, 5, 0.1, 1, hyper)

    def update(seed: int) -> Update:
        weights = {"weight": model(seed)["weight"]}
        steps = effective_steps(steps_in_a_round(seed, hyper), 0.9)
        metrics = {"train_loss": 0.5, "train_accuracy": 0.5, "effective_steps": steps, "initial_loss": 1.0}
        return Update(weights, seed, metrics, {"control": weights})

    came = [update(seed) for seed in (3, 5, 8)]
    state = algorithm.init(params, setting)
    known = algorithm.combine(state, params, Replies.of(came), setting)
    found = algorithm.combine(state, params, Replies(iter(came), [3, 4, 5, 8, 30]), setting)
    torch.testing.assert_close(found.params, known.params)
    torch.testing.assert_close(found.state, known.state)


class Counting(Answering):
    """Counts the replies that are held when another one is made."""

    most = 0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.held: weakref.WeakSet[Message] = weakref.WeakSet()

    def handle(self, message: Message) -> Message:
        self.most = max(self.most, len(self.held))
        reply = super().handle(message)
        if message.metadata.message_type == "train":
            self.held.add(reply)
        return reply


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in NEED_ALL])
def test_replies_are_added_up_as_they_arrive(strategy: str) -> None:
    grid = Counting(strategy)
    rounds = loop(strategy, grid)
    with RoundBar(9, 0, quiet=True) as bar:
        reports = rounds.round(1, begin(rounds), bar).reports
    assert grid.most <= 2, "memory grows with the number of clients"
    assert [(report.weights, report.extra) for report in reports.values()] == [({}, {})] * CLIENTS


def test_what_the_server_remembers_must_be_finite_too() -> None:
    """It would spoil the next round, after this one was saved."""

    def combine(state: ServerState, params: Weights, replies: Replies, setting: Setting) -> Combined:
        combined = fedavg.combine(state, params, replies, setting)
        return combined._replace(state={"momentum": {"weight": torch.tensor([1.0, float("inf")])}})

    rounds = loop("fedavg")
    with pytest.raises(Diverged, match="round 1 is not finite"):
        after(replace(rounds, algorithm=replace(rounds.algorithm, combine=combine)), begin(rounds))


def test_replies_that_come_early_wait_for_those_before_them_and_no_longer() -> None:
    grid = Counting("fedavg", (1, 0, 2, 5, 4, 3, 6))
    rounds = loop("fedavg", grid)
    after(rounds, begin(rounds))
    assert grid.most == 3  # 5 and 4 wait for 3, and the one before has just been added


def test_messages_hold_the_whole_model_and_share_no_records() -> None:
    grid = Answering("scaffold")
    rounds = loop("scaffold", grid)
    after(rounds, begin(rounds))
    for message in grid.received:
        assert list(message.content.array_records["arrays"]) == list(model(0))
        assert set(message.content.array_records["control"]) == PARAMETERS
        assert message.content.config_records["config"]["server-round"] == 1
    first, second = grid.received[:2]
    first.content.array_records["control"].clear()
    first.content.array_records["arrays"].clear()
    first.content.config_records["config"]["run-config"] = "changed"
    assert second.content.array_records["control"]
    assert from_record(second.content.array_records["arrays"])["weight"].equal(model(0)["weight"])
    assert second.content.config_records["config"]["run-config"] == "x"


def test_sampling_is_a_function_of_seed_and_round() -> None:
    chosen = [sample_clients(0, server_round, 20, 6) for server_round in range(1, 50)]
    assert chosen == [sample_clients(0, server_round, 20, 6) for server_round in range(1, 50)]
    assert all(len(set(some)) == 6 and some == sorted(some) for some in chosen)
    assert {client for some in chosen for client in some} == set(range(20))
    assert chosen[0] != chosen[1]
    assert chosen[0] != sample_clients(1, 1, 20, 6)
    assert sample_clients(0, 1, 20, 20) == list(range(20))


def test_sampling_is_by_partition_not_by_node() -> None:
    class Shuffled(Answering):
        """The same nodes, which hold other partitions."""

        def handle(self, message: Message) -> Message:
            if message.metadata.message_type == "query":
                partition = (message.metadata.dst_node_id * 3) % CLIENTS
                return Message(RecordDict({"node": ConfigRecord({"partition-id": partition})}), reply_to=message)
            return super().handle(message)

    asked = []
    for grid in (Answering("fedavg"), Shuffled("fedavg")):
        rounds = loop("fedavg", grid, participation=0.4)
        with RoundBar(9, 0, quiet=True) as bar:
            asked.append(rounds.round(1, begin(rounds), bar).participants)
    assert asked[0] == asked[1]


def everything(state: State) -> Tensor:
    """The weights and what the server remembers, as one vector."""
    kept = [tensor for part in state.server.values() for tensor in part.values()]
    return torch.cat([tensor.flatten().double() for tensor in (*state.weights.values(), *kept)])


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold", "feddyn"])
def test_what_the_server_remembers_makes_a_difference_and_is_left_as_it_was(strategy: str) -> None:
    rounds = loop(strategy)
    first = after(rounds, begin(rounds))
    kept = {name: {n: t.clone() for n, t in part.items()} for name, part in first.server.items()}
    second = after(rounds, first)
    assert torch.equal(everything(after(loop(strategy), first)), everything(second)), "a round is no pure function"
    for name, part in kept.items():
        assert all(torch.equal(first.server[name][n], tensor) for n, tensor in part.items())
    assert first.client_rounds.tolist() == [1] * CLIENTS
    forgetful = State(1, first.weights, "", "", first.client_rounds, begin(rounds).server)
    assert not torch.allclose(everything(second), everything(after(rounds, forgetful)))
