"""What clients remember, damaged, swapped or not to be written: a run does not go on without it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from federated import load_classifier
from federated.client.state import ClientStates
from federated.client.training import ClientState
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.server import run as rounds
from federated.server.output.run_folder import RunFolder
from federated.server.run import RunFailed, run
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked
from tests.federated.conftest import TINY, outcome, take_no_pictures
from tests.federated.server.test_damage import stop_in_round

REMEMBERED: dict[str, dict[str, Any]] = {
    "scaffold": {"strategy": "scaffold"},
    "feddyn": {"strategy": "feddyn"},
    "moon": {"strategy": "moon"},
    "head": {"personal": "head"},
    "statistics": {"bn_stats": "local"},
}


def config_in(folder: Path, **fields: Any) -> RunConfig:
    return RunConfig(**{**TINY, **fields, "output": folder})


def stopped(folder: Path, **fields: Any) -> Path:
    """A run that ended after two of three rounds; of client 0 the state after round 1 is still there."""
    with pytest.MonkeyPatch.context() as patch:
        take_no_pictures(patch)
        stop_in_round(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(config_in(folder, **fields), quiet=True)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("states") / "run", strategy="scaffold")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another learning rate."""
    return stopped(tmp_path_factory.mktemp("states") / "run", strategy="scaffold", lr=0.02)


def flip_a_bit(path: Path) -> None:
    """Change a weight, and the archive's own checksums with it."""
    content = torch.load(path, weights_only=True)
    tensor = content["control"]["head.weight"]
    tensor.view(torch.int32)[0, 0] ^= 1
    torch.save(content, path)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["control"]["head.weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


def without_checksum(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({"control": content["control"]}, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit": (flip_a_bit, "is damaged: its checksum does not fit"),
    "byte": (flip_a_byte, "is damaged: its content does not fit its checksums"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:500]), "is truncated"),
    "empty": (lambda path: path.write_bytes(b""), "is truncated"),
    "another client": (lambda path: shutil.copy(path.parent.parent / "0" / "2.pt", path), "is not what client 1 kept"),
    "another round": (lambda path: shutil.copy(path.with_name("1.pt"), path), "after round 2 of this run"),
    "without a checksum": (without_checksum, "is not what client 1 kept"),
    "gone": (lambda path: path.unlink(), "does not exist"),
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (folder / "clients").rglob("*.pt")}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_client_state_that_is_not_what_was_written(whole: Path, tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    change, words = DAMAGE[case]
    change(folder / "clients" / "1" / "2.pt")
    before = files(folder)
    with pytest.raises(UserError, match=f"clients/1/2.pt.* {words}.*; remove the run folder"):
        run(config_in(folder, strategy="scaffold"), quiet=True)
    assert files(folder) == before


def test_files_that_another_process_is_replacing_are_not_called_damaged(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "clients" / "1" / "2.pt").unlink()
    with locked(folder), pytest.raises(UserError, match="is being worked on by another process"):
        run(config_in(folder, strategy="scaffold"), quiet=True)


def test_a_client_state_of_another_run(whole: Path, another: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(another / "clients" / "2" / "2.pt", folder / "clients" / "2" / "2.pt")
    with pytest.raises(UserError, match="is not what client 2 kept after round 2 of this run"):
        run(config_in(folder, strategy="scaffold"), quiet=True)


def test_another_partition_of_the_same_data_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def name(folder: str) -> str:
        return RunFolder(run(config_in(tmp_path / folder, rounds=1), quiet=True).folder).load_state().run

    assert name("one") == name("again")
    original = rounds.make_partition
    monkeypatch.setattr(rounds, "make_partition", lambda *given: original(*given)[::-1])
    assert name("other") != name("one")


def test_a_client_state_that_is_damaged_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the client its round, as a broken reply does, and nobody else."""
    save = ClientStates.save

    def save_and_damage(self: ClientStates, client: int, server_round: int, state: ClientState) -> None:
        save(self, client, server_round, state)
        if (client, server_round) == (1, 2):
            flip_a_bit(self.folder / "1" / "2.pt")

    monkeypatch.setattr(ClientStates, "save", save_and_damage)
    rows = run(config_in(tmp_path / "run", strategy="scaffold"), quiet=True).history
    (failure,) = rows[3]["failures"]
    assert failure["client"] == 1
    assert "is damaged: its checksum does not fit" in failure["reason"]


def test_a_full_disk_at_a_client_of_this_machine_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, the client would change the result."""
    save = ClientStates.save

    def full(self: ClientStates, client: int, server_round: int, state: ClientState) -> None:
        if (client, server_round) == (1, 2):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, client, server_round, state)

    config = config_in(tmp_path / "run", strategy="scaffold")
    with monkeypatch.context() as patch:
        patch.setattr(ClientStates, "save", full)
        with pytest.raises(RunFailed, match=r"client 1 cannot write what it must remember: .*No space left"):
            run(config, quiet=True)
    again = run(config, quiet=True)
    assert again.resumed_from == 1
    assert outcome(again.folder) == outcome(run(config_in(tmp_path / "other", strategy="scaffold"), quiet=True).folder)


def test_a_full_disk_at_a_node_elsewhere_costs_that_node_its_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's disk has room, and the run need not wait for the node's owner."""
    save = ClientStates.save

    def full(self: ClientStates, client: int, server_round: int, state: ClientState) -> None:
        if (client, server_round) == (1, 2):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, client, server_round, state)

    monkeypatch.setattr(ClientStates, "save", full)
    grid = InProcessGrid(client_app, 3)
    for number, context in enumerate(grid._contexts.values()):
        context.node_config = {"partition-id": number, "state-dir": str(tmp_path / f"node{number}")}
    rows = run(config_in(tmp_path / "run", strategy="scaffold"), quiet=True, grid=grid).history
    assert [[failure["client"] for failure in row["failures"]] for row in rows] == [[], [], [1], []]
    assert "No space left" in rows[2]["failures"][0]["reason"]


@pytest.mark.parametrize("kind", REMEMBERED)
def test_all_that_clients_remember_says_whose_it_is(tmp_path: Path, kind: str) -> None:
    folder = RunFolder(stopped(tmp_path / "run", **REMEMBERED[kind]))
    state = folder.load_state()
    for path in folder.client_states.rglob("*.pt"):
        whose = torch.load(path, weights_only=True)["whose"]
        assert whose == {"run": state.run, "client": int(path.parent.name), "round": int(path.stem)}
    folder.path.joinpath("clients", "0", "2.pt").write_bytes(folder.path.joinpath("clients", "1", "2.pt").read_bytes())
    with pytest.raises(UserError, match="is not what client 0 kept after round 2"):
        ClientStates(folder.client_states, state.run).load(0, 2)


def test_runs_that_began_before_go_on(whole: Path, tmp_path: Path) -> None:
    """Neither state.pt nor what clients remember says which run it is of."""
    folder = shutil.copytree(whole, tmp_path / "run")
    content = torch.load(folder / "state.pt", weights_only=True)
    torch.save({name: value for name, value in content.items() if name not in ("run", "checksum")}, folder / "state.pt")
    for path in (folder / "clients").rglob("*.pt"):
        without_checksum(path)
    rows = run(config_in(folder, strategy="scaffold"), quiet=True).history
    assert [row["failures"] for row in rows] == [[]] * 4
    new = shutil.copytree(whole, tmp_path / "new")
    run(config_in(new, strategy="scaffold"), quiet=True)
    assert outcome(folder) == outcome(new)


@pytest.mark.parametrize("fields", [{"personal": "head"}, {"bn_stats": "local"}])
def test_a_finished_runs_client(tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = run(config_in(tmp_path / "run", rounds=1, **fields), quiet=True).folder
    load_classifier(folder, client=1)
    shutil.copy(folder / "clients" / "0" / "1.pt", folder / "clients" / "1" / "1.pt")
    with pytest.raises(UserError, match="is not what client 1 kept after round 1 of this run"):
        load_classifier(folder, client=1)
    with pytest.raises(UserError, match="has nothing of client 7's own"):
        load_classifier(folder, client=7)


@pytest.mark.parametrize("writes", [1, 4, 7])
def test_a_full_disk_ends_in_a_line_and_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """From some write on there is no room left, in the middle of what clients remember, too."""
    folder, left, original = shutil.copytree(whole, tmp_path / "run"), [writes], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    take_no_pictures(monkeypatch)
    config = config_in(folder, strategy="scaffold")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(SystemExit) as ended:
            cli.run("program", lambda _: run(config, quiet=True) and 0, None)
    assert ended.value.code in (2, 3)
    whole_run = run(config_in(shutil.copytree(whole, tmp_path / "new"), strategy="scaffold"), quiet=True)
    assert outcome(run(config, quiet=True).folder) == outcome(whole_run.folder)
