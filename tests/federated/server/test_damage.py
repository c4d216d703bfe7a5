"""A run whose files were changed is refused before anything is trained or removed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federated.config.run import RunConfig
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from tests.federated.conftest import TINY

Change = Callable[[dict[str, Any]], Any]


def config_in(folder: Path) -> RunConfig:
    return RunConfig(**{**TINY, "strategy": "scaffold", "output": folder})


def stop_in_round(patch: pytest.MonkeyPatch, number: int) -> None:
    """Interrupt a run when that round has begun."""

    def injected(_: object, server_round: int, client: int) -> None:
        if server_round == number:
            raise KeyboardInterrupt

    patch.setattr("federated.client_app.injected", injected)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SCAFFOLD that ended after two of three rounds."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_in_round(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(config_in(folder), quiet=True)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(stopped: Path, tmp_path: Path, name: str, damage: Callable[[Path], object]) -> str:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    damage(folder / name)
    before = contents(folder)
    with pytest.raises(UserError, match=name) as error:
        run(config_in(folder), quiet=True)
    after = contents(folder)
    after.pop("log.txt"), before.pop("log.txt")
    assert after == before
    assert "\n" not in str(error.value)
    return str(error.value)


def rewrite(path: Path, change: Change, *, keep_checksum: bool = False) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    if not keep_checksum:
        content.pop("checksum")
    torch.save(content, path)


def first_weight(content: dict[str, Any]) -> torch.Tensor:
    weight: torch.Tensor = content["weights"]["encoder.conv1.weight"]
    return weight


CHANGES: dict[str, tuple[Change, str]] = {
    "round -1": (lambda c: c.update(round=-1), "its round is -1"),
    "round beyond": (lambda c: c.update(round=4), "its round is 4"),
    "round a tensor": (lambda c: c.update(round=torch.ones(2)), "its round"),
    "no server state": (lambda c: c.update(server={}), "control"),
    "server state a list": (lambda c: c.update(server=[1]), "control"),
    "server state misshapen": (lambda c: c["server"]["control"].update({"head.bias": torch.ones(1)}), "head.bias"),
    "no weights": (lambda c: c.update(weights={}), "other tensors"),
    "misshapen": (lambda c: c["weights"].update({"head.bias": torch.ones(3)}), "head.bias"),
    "another type": (lambda c: c["weights"].update({"head.bias": torch.ones(10).double()}), "head.bias"),
    "sparse": (lambda c: c["weights"].update({"head.bias": torch.ones(10).to_sparse()}), "head.bias"),
    "not finite": (lambda c: first_weight(c).fill_(float("nan")), "not finite"),
    "clients ahead": (lambda c: c["client_rounds"].fill_(7), "rounds that have not been"),
    "fewer clients": (lambda c: c.update(client_rounds=torch.zeros(2, dtype=torch.int64)), "each of 3 clients"),
    "another kind of name": (lambda c: c.update(run=5), "which run it is of"),
    "another version": (lambda c: c.update(version=3), "is not the state of a run, version 2"),
    "another format": (lambda c: c.update(format="fps-classifier"), "is not the state of a run, version 2"),
    "a part is missing": (lambda c: c.pop("data_digest"), "data_digest"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_state_that_does_not_fit_is_refused(stopped: Path, tmp_path: Path, case: str) -> None:
    change, words = CHANGES[case]
    assert words in refused(stopped, tmp_path, "state.pt", lambda path: rewrite(path, change))


def test_a_state_with_a_weight_changed_is_refused(stopped: Path, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        first_weight(content)[0, 0, 0, 0] += 1e-6

    damage = lambda path: rewrite(path, change, keep_checksum=True)  # noqa: E731
    assert "checksum" in refused(stopped, tmp_path, "state.pt", damage)


def test_a_flipped_bit_is_noticed(stopped: Path, tmp_path: Path) -> None:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        weights = first_weight(torch.load(path, weights_only=True)).numpy().tobytes()
        content[content.index(weights) + 3] ^= 1
        path.write_bytes(content)

    assert "damaged" in refused(stopped, tmp_path, "state.pt", flip)


def arrays(change: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with np.load(path) as file:
            indices, ends = change(file["indices"], file["ends"])
        np.savez(path, indices=indices, ends=ends)

    return damage


PARTITIONS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "another seed": lambda indices, ends: (indices[::-1].copy(), ends),
    "other ends": lambda indices, ends: (indices, ends - np.array([1, 0, 0])),
    "fewer clients": lambda indices, ends: (indices, ends[[0, 2]]),
    "more clients": lambda indices, ends: (indices, np.append(ends, ends[-1])),
    "fewer examples": lambda indices, ends: (np.arange(len(indices) - 1), np.minimum(ends, len(indices) - 1)),
    "negative": lambda indices, ends: (indices - 1, ends),
    "repeated": lambda indices, ends: (np.zeros_like(indices), ends),
    "decreasing": lambda indices, ends: (indices, ends[[1, 0, 2]]),
    "fractions": lambda indices, ends: (indices + 0.25, ends),
    "two dimensions": lambda indices, ends: (indices[None], ends),
}


@pytest.mark.parametrize("case", PARTITIONS)
def test_another_partition_is_refused(stopped: Path, tmp_path: Path, case: str) -> None:
    assert "damaged" in refused(stopped, tmp_path, "partition.npz", arrays(PARTITIONS[case]))


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "metrics.jsonl", "partition.npz", "state.pt"])
def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(stopped: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / name).unlink()
    os.mkfifo(folder / name)

    def hangs(*_: object) -> None:
        raise TimeoutError(name)

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    try:
        with pytest.raises(UserError):
            run(config_in(folder), quiet=True)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (folder / name).is_fifo()


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm", "fedyogi", "fedadagrad", "feddyn", "scaffold", "fedavg"])
def test_what_the_server_remembers_is_known_before_a_run_is_resumed(tmp_path: Path, strategy: str) -> None:
    """A run that goes on after a round, for each algorithm with momenta or control variates."""
    config = RunConfig(**{**TINY, "rounds": 2, "strategy": strategy, "output": tmp_path / "run"})
    with pytest.MonkeyPatch.context() as patch:
        stop_in_round(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(config, quiet=True)
    assert run(config, quiet=True).resumed_from == 1
