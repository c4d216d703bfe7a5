"""A run that is killed between any two writes ends with the weights and metrics of one that was not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federated import algorithms
from federated.client.state import ClientStates
from federated.config.algorithm import options_class
from federated.config.run import RunConfig
from federated.server.output import model_file
from federated.server.output.run_folder import RunFolder
from federated.server.run import run
from fps_pretrain.common import environment
from fps_pretrain.common.errors import UserError
from tests.federated.conftest import outcome, run_quietly
from tests.tools import warm

Tiny = Callable[..., RunConfig]

FIELDS: dict[str, Any] = {"clients": 4, "participation": 0.75, "rounds": 4, "momentum": 0.5, "lr": 0.02}

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"strategy": name} for name in algorithms.names()},
    "local-statistics": {"bn_stats": "local"},
    "server-statistics": {"bn_stats": "server"},
    "failures": {"strategy": "scaffold", "inject_failures": 0.3, "seed": 2},
}
for robust in ("krum", "multikrum", "bulyan"):
    VARIANTS[robust].update({"malicious": 0})
VARIANTS["trimmedmean"].update({"trim": 0.4})


def _run_until_killed(config: RunConfig, writes: int) -> None:
    """Run, and die at once by SIGKILL before the given number of writes, renames or removals below the run folder."""
    left = writes

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writing = event in ("os.rename", "os.remove") or (event == "open" and "r" not in str(arguments[1] or "r"))
        if writing and str(config.folder) in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    sys.addaudithook(count)
    run(config, quiet=True)


def run_with_kills(config: RunConfig, seed: int, kills: int) -> int:
    """Carry a run to its end through at most so many kills at random moments; returns how many there were."""
    context = warm.context()
    rng = np.random.default_rng(seed)
    # Clients that remember something write more.
    most = 45 if config.bn_stats == "local" or config.algorithm_options().keeps_state else 18
    for number in range(kills):
        child = context.Process(target=_run_until_killed, args=(config, int(rng.integers(3, most))))
        child.start()
        child.join()
        if child.exitcode == 0:
            return number
        assert child.exitcode == -signal.SIGKILL
    run(config, quiet=True)
    return kills


@pytest.mark.parametrize("variant", ["scaffold", "fedadam"])
def test_killed_runs_resume_exactly(tiny: Tiny, tmp_path: Path, variant: str) -> None:
    fields = {**FIELDS, **VARIANTS[variant]}
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    assert run_with_kills(tiny(**fields), seed=1, kills=3) > 1
    assert outcome(tiny().folder) == whole


@pytest.mark.promise
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_run_resumes_exactly(tiny: Tiny, tmp_path: Path, variant: str, seed: int) -> None:
    fields = {**FIELDS, **VARIANTS[variant]}
    whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    assert run_with_kills(tiny(**fields), seed=seed, kills=8) > 0
    assert outcome(tiny().folder) == whole


def stop_in_round_3(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Interrupt a run when the third round has begun."""
    with monkeypatch.context() as patch:
        patch.setattr("federated.client_app.injected", lambda _, server_round, client: _interrupt(server_round))
        with pytest.raises(KeyboardInterrupt):
            run(config, quiet=True)
    folder = RunFolder(config.folder)
    assert folder.load_state().round == 2
    return folder


def _interrupt(server_round: int) -> None:
    if server_round == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", [name for name in algorithms.names() if options_class(name).keeps_state])
def test_a_resumed_run_reads_what_its_clients_remember(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    fields = {**FIELDS, "strategy": strategy}
    _, whole = run_quietly(tiny(output=tmp_path / "whole", **fields))
    for change in (0, 1):
        config = tiny(output=tmp_path / f"changed{change}", **fields)
        folder = stop_in_round_3(config, monkeypatch)
        states = ClientStates(folder.client_states, folder.load_state().run)
        for path in folder.client_states.glob("*/*.pt"):
            of = int(path.parent.name), int(path.stem)
            state = states.load(*of)
            states.save(*of, {name: {n: t + change for n, t in part.items()} for name, part in state.items()})
        assert (run_quietly(config)[1] == whole) == (change == 0)


def test_a_run_says_on_what_it_went_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stop_in_round_3(tiny(**FIELDS), monkeypatch)
    began = environment.read(folder.path)
    for machine in ("elsewhere", "only asked for its result"):
        monkeypatch.setattr(environment, "describe", lambda where=machine: {**began, "processor": where})
        run(tiny(**FIELDS), quiet=True)
    (folder.path / "model.pt").unlink()
    monkeypatch.setattr(environment, "describe", lambda: {**began, "processor": "only wrote the model anew"})
    run(tiny(**FIELDS), quiet=True)
    assert environment.read(folder.path) == {**began, "processor": began["processor"] + ", then elsewhere"}


def test_a_lost_client_state_is_an_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(**{**FIELDS, "strategy": "scaffold", "participation": 1.0})
    folder = stop_in_round_3(config, monkeypatch)
    (folder.client_states / "2" / "2.pt").unlink()
    with pytest.raises(UserError, match=r"clients/2/2.pt does not exist; remove the run folder"):
        run(config, quiet=True)


def test_a_run_that_is_killed_while_it_finishes_needs_no_client_states(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are removed before model.pt is written."""
    config = tiny(strategy="scaffold")
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "write", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, quiet=True)
    folder = RunFolder(config.folder)
    assert not folder.client_states.exists()
    assert not folder.has_model
    run(config, quiet=True)
    assert folder.has_model


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_versions_of_a_client_state(tmp_path: Path) -> None:
    states = ClientStates(tmp_path / "clients", "a run")
    assert states.take(3, 0) == {}
    states.save(3, 5, {"control": {"w": torch.ones(2)}})
    states.save(3, 7, {"control": {"w": torch.zeros(2)}})
    assert torch.equal(states.load(3, 5)["control"]["w"], torch.ones(2))
    (tmp_path / "clients" / "3" / ".7.pt.123.partial").write_bytes(b"half")
    assert torch.equal(states.take(3, 5)["control"]["w"], torch.ones(2))
    assert [path.name for path in (tmp_path / "clients" / "3").iterdir()] == ["5.pt"]
    with pytest.raises(UserError, match="does not exist"):
        states.take(3, 7)
    assert [path.name for path in (tmp_path / "clients" / "3").iterdir()] == ["5.pt"], "nothing is lost over an error"


def versions(folder: RunFolder) -> dict[str, list[str]]:
    """The client states there are."""
    clients = folder.client_states.iterdir() if folder.client_states.exists() else ()
    return {client.name: sorted(path.name for path in client.iterdir()) for client in clients}


def test_clients_leave_no_more_than_two_versions_each_and_none_when_finished(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(strategy="scaffold", rounds=4)
    folder = stop_in_round_3(config, monkeypatch)
    assert versions(folder) == {str(client): ["1.pt", "2.pt"] for client in range(3)}
    run(config, quiet=True)
    assert versions(folder) == {}
    assert len(run(config, quiet=True).history) == 5


def test_clients_keep_their_own_statistics_when_finished(tiny: Tiny) -> None:
    result = run(tiny(bn_stats="local", clients=4, participation=0.5), quiet=True)
    folder = RunFolder(result.folder)
    last = {str(c): [f"{r}.pt"] for c, r in enumerate(folder.load_state().client_rounds.tolist()) if r}
    assert versions(folder) == last
