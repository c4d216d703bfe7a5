"""Clients that fail are left out of a round, named and counted, and never bring a run down without a word."""

from __future__ import annotations

import errno
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from flwr.app import Message

from federated.algorithms import fedavg
from federated.algorithms.base import Update
from federated.client.failures import HANG_GRACE, ClientTimeout, Deadline, injected
from federated.client.training import Client, ClientDiverged, ClientUpdate
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.engines.start import Engine
from federated.server.exchange import Clients
from federated.server.output.run_folder import RunFolder, read_history
from federated.server.replies import BadReply, Expected
from federated.server.run import Diverged, RunFailed, run
from federated.weights import Weights
from tests.federated.conftest import outcome, run_quietly
from tests.federated.server.test_rounds import fail_in_round

Tiny = Callable[..., RunConfig]


def test_a_client_that_raises_is_left_out_of_its_round(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_in_round(patch, 2, {1}, ValueError("the disk\nis on fire"))
        result = run(tiny(), quiet=True)
    assert [row["failures"] for row in result.history] == [
        [], [], [{"client": 1, "reason": "ValueError: the disk is on fire"}], [],
    ]  # fmt: skip
    assert result.history[2]["participants"] == [0, 1, 2]
    log = (result.folder / "log.txt").read_text()
    assert "round 2: client 1 is left out: ValueError: the disk is on fire" in log
    assert "Traceback" in log
    assert "1 times a client was left out of a round" in log


def test_a_round_without_a_client_is_the_round_of_the_others(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client that failed would have sent, or did send, has no influence."""
    outcomes = []
    for kind in ("error", "nan"):
        config = tiny(output=tmp_path / kind, rounds=2)
        with monkeypatch.context() as patch:
            if kind == "error":
                fail_in_round(patch, 1, {1}, ValueError())
            else:
                spoil_in_round(patch, 1, 1)
            outcomes.append(run_quietly(config))
    assert outcomes[0][1] == outcomes[1][1]
    reasons = [rows[1]["failures"][0]["reason"] for rows, _ in outcomes]
    assert reasons == ["ValueError:", "sent arrays that are not finite, encoder.conv1.weight first"]


def spoil_in_round(monkeypatch: pytest.MonkeyPatch, server_round: int, client: int) -> None:
    """Make this client send weights that are not numbers."""
    from federated import client_app

    monkeypatch.setattr(client_app, "injected", lambda _, *key: "nan" if key == (server_round, client) else None)


@pytest.mark.parametrize(("least", "counts"), [(2, True), (3, False)])
def test_min_clients(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, least: int, counts: bool) -> None:
    with monkeypatch.context() as patch:
        fail_in_round(patch, 2, {2}, ValueError("no"))
        if counts:
            assert len(run(tiny(min_clients=least), quiet=True).history) == 4
            return
        with pytest.raises(RunFailed, match="1 of 3 clients failed in round 2 and --min-clients is 3; client 2"):
            run(tiny(min_clients=least), quiet=True)
    assert RunFolder(tiny().folder).load_state().round == 1
    assert run(tiny(min_clients=1), quiet=True).resumed_from == 1, "--min-clients may change"


@pytest.mark.parametrize(("strategy", "least"), [("krum", 5), ("multikrum", 5), ("bulyan", 7), ("trimmedmean", 5)])
def test_a_strategy_that_is_left_with_too_few_fails_the_run(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, strategy: str, least: int
) -> None:
    module = importlib.import_module(f"federated.algorithms.{strategy}")  # imported later it would keep the fault
    fail_in_round(monkeypatch, 1, {0}, ValueError())
    monkeypatch.setattr(module, "train_client", fedavg.train_client)
    with pytest.raises(RunFailed, match=f"{least - 1} replies in round 1 are too few for --strategy {strategy}"):
        run(tiny(strategy=strategy, clients=least), quiet=True)


def test_a_client_that_takes_too_long(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from federated.client import training as local

    original = local._batches

    def slow(count: int, size: int, generator: torch.Generator) -> Any:
        for batch in original(count, size, generator):
            if count > 15:  # two of four clients
                time.sleep(0.7)
            yield batch

    monkeypatch.setattr(local, "_batches", slow)
    config = tiny(clients=4, partition="size", size_skew="linear", rounds=1, client_timeout=0.6, batch_size=100)
    (failure, *others) = run(config, quiet=True).history[1]["failures"]
    assert failure["reason"] == "ClientTimeout: took longer than 0.6 s"
    assert len(others) == 1


def test_a_client_that_took_too_long_after_its_last_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original, late = fedavg.train_client, [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0], sleep=time.sleep)
    monkeypatch.setattr("federated.client.failures.time", clock)

    def train(client: Client, weights: Weights) -> ClientUpdate:
        update = original(client, weights)
        late[0] += 1000.0 * (client.key[2] == 1)
        return update

    monkeypatch.setattr(fedavg, "train_client", train)
    rows = run(tiny(rounds=1, client_timeout=500.0), quiet=True).history
    assert rows[1]["failures"] == [{"client": 1, "reason": "ClientTimeout: took longer than 500 s"}]


def test_a_client_that_misses_a_file_is_left_out_and_the_disk_not_blamed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_round(monkeypatch, 1, {1}, FileNotFoundError(errno.ENOENT, "No such file", "there.bin"))
    rows = run(tiny(rounds=1), quiet=True).history
    assert [failure["client"] for failure in rows[1]["failures"]] == [1]


class Deaf(InProcessGrid):
    """Node 3 gets its training messages and never answers."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = list(super().push_messages(messages))
        self._pending = {
            identifier: message
            for identifier, message in self._pending.items()
            if message.metadata.message_type == "query" or message.metadata.dst_node_id != 3
        }
        return identifiers


def test_a_node_that_never_answers_is_not_waited_for(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated.server.exchange.HANG_GRACE", 0.5)
    rows = run(tiny(rounds=2, client_timeout=3.0), quiet=True, grid=Deaf(client_app, 3)).history
    assert rows[2]["failures"] == [{"client": 1, "reason": "gave no answer in time"}]


def test_nodes_elsewhere_are_given_some_time_to_say_that_theirs_is_over() -> None:
    here, elsewhere = (cast(Engine, SimpleNamespace(remote=remote)) for remote in (False, True))
    assert Clients(elsewhere, (2, 3), 5.0).patience == 5.0 + HANG_GRACE > 30
    assert Clients(elsewhere, (2, 3)).patience is None
    assert Clients(here, (2, 3), 5.0).patience is None, "the engine ends those that hang"


def test_deadline() -> None:
    Deadline(None).check()
    deadline = Deadline(0.01)
    deadline.check()
    deadline.wait()
    with pytest.raises(ClientTimeout, match=r"longer than 0\.01 s"):
        deadline.check()


def test_injected_failures_are_a_function_of_seed_round_and_client() -> None:
    config = RunConfig(inject_failures=0.3, client_timeout=1.0)
    kinds = [injected(config, server_round, client) for server_round in range(50) for client in range(40)]
    assert kinds == [injected(config, server_round, client) for server_round in range(50) for client in range(40)]
    counts = Counter(kinds)
    assert set(counts) == {None, "raise", "nan", "slow"}
    assert 0.25 < 1 - counts[None] / 2000 < 0.35
    assert min(counts["raise"], counts["nan"], counts["slow"]) > 140
    other = RunConfig(inject_failures=0.3, client_timeout=1.0, seed=1)
    assert kinds != [injected(other, server_round, client) for server_round in range(50) for client in range(40)]
    always = RunConfig(inject_failures=1.0)
    untimed = {injected(always, 1, client) for client in range(20)}
    assert untimed == {"raise", "nan"}
    assert injected(RunConfig(), 1, 1) is None


@pytest.mark.slow
@pytest.mark.promise
def test_injected_failures_of_every_kind(tiny: Tiny, tmp_path: Path) -> None:
    run(
        tiny(clients=6, rounds=1, strategy="scaffold", output=tmp_path / "first"), quiet=True
    )  # what is slow the first time is not a timeout
    config = tiny(clients=6, rounds=4, inject_failures=0.5, client_timeout=4.0, strategy="scaffold")
    rows = run(config, quiet=True).history
    reasons = Counter(failure["reason"].split(":")[0] for row in rows for failure in row["failures"])
    assert set(reasons) == {
        "InjectedFailure", "ClientTimeout", "sent arrays that are not finite, encoder.conv1.weight first",
    }  # fmt: skip
    for row in rows[1:]:
        expected = {client for client in range(6) if injected(config, row["round"], client)}
        assert {failure["client"] for failure in row["failures"]} == expected


def test_everybody_failing_is_never_a_success(tiny: Tiny) -> None:
    with pytest.raises(RunFailed, match="3 of 3 clients failed in round 1"):
        run(tiny(inject_failures=1.0), quiet=True)
    assert [row["round"] for row in read_history(tiny().folder)] == [0]


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([ClientDiverged("nan"), ClientDiverged("inf"), None], Diverged),
        ([ClientDiverged("nan"), MemoryError("no memory"), None], RunFailed),
        ([MemoryError("no memory"), None, None], RunFailed),
    ],
)
def test_a_round_diverges_where_all_clients_that_failed_did(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, errors: list[Exception | None], kind: type[RunFailed]
) -> None:
    for client, error in enumerate(errors):
        if error:
            fail_in_round(monkeypatch, 1, {client}, error)
    with pytest.raises(RunFailed) as failed:
        run(tiny(min_clients=3), quiet=True)
    assert failed.type is kind


def test_weights_that_are_not_finite_are_divergence(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_in_round(monkeypatch, 1, 1)
    with pytest.raises(Diverged, match="not finite") as caught:
        run(tiny(min_clients=3), quiet=True)
    assert "would diverge again" in caught.value.advice


@pytest.mark.parametrize("strategy", ["scaffold", "moon"])
def test_a_client_that_failed_goes_on_from_the_state_that_counted(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """A client whose reply is dropped, although it has written its state, has not trained."""
    original = Expected.read

    def drop(self: Expected, reply: Message, most_examples: int) -> Update:
        if reply.metadata.src_node_id == 3 and reply.metadata.group_id == "2":
            raise BadReply("lost on the way")
        return original(self, reply, most_examples)

    outcomes = []
    for kind in ("before", "after"):
        with monkeypatch.context() as patch:
            if kind == "before":
                patch.setattr("federated.client_app.injected", lambda _, *key: "raise" if key == (2, 1) else None)
            else:
                patch.setattr(Expected, "read", drop)
            folder = run(tiny(output=tmp_path / kind, strategy=strategy, rounds=4), quiet=True).folder
        outcomes.append(outcome(folder)[1])
        assert RunFolder(folder).load_state().client_rounds.tolist() == [4, 4, 4]
    assert outcomes[0] == outcomes[1]


class Silent(InProcessGrid):
    """No node answers messages of one type."""

    silent_on = ""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = list(super().push_messages(messages))
        self._pending = {
            identifier: message
            for identifier, message in self._pending.items()
            if message.metadata.message_type != self.silent_on
        }
        return identifiers


@pytest.mark.parametrize(
    ("message_type", "fields"),
    [
        ("query", {"node_timeout": 0.5}),
        ("query", {"client_timeout": 0.1}),
        ("query.batch_norm_sums", {"client_timeout": 0.1, "init_statistics": "clients"}),
        ("query.class_sums", {"client_timeout": 0.1, "head": "centroid"}),
    ],
)
def test_the_opening_questions_have_an_end(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, message_type: str, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr("federated.server.exchange.HANG_GRACE", 0.5)
    grid = Silent(client_app, 3)
    grid.silent_on = message_type
    started = time.monotonic()
    with pytest.raises(RunFailed, match="does not answer: gave no answer in time"):
        run(tiny(**fields), quiet=True, grid=grid)
    assert time.monotonic() - started < 60
