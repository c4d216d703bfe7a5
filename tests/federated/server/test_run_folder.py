"""What a run's folder promises: writes that survive a power failure, nothing left beside it, and a secret kept."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.app import ArrayRecord, Message

from federated.client_app import client_app
from federated.config.run import RunConfig, from_yaml
from federated.engines.inprocess import InProcessGrid
from federated.server.output.run_folder import RunFolder, read_history
from federated.server.run import RunFailed, run
from federated.server.start.estimate import dry_run
from fps_pretrain.common.errors import UserError
from tests.federated.server.test_rounds import fail_in_round

Tiny = Callable[..., RunConfig]


def test_metrics_are_not_written_again_where_nothing_changes(tiny: Tiny) -> None:
    folder = RunFolder(run(tiny(), quiet=True).folder)
    before = (folder.path / "metrics.jsonl").stat()
    assert len(folder.rewind(3)) == 4
    after = (folder.path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_metrics_that_are_cut_are_on_disk_before_the_old_ones_are_gone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(run(tiny(), quiet=True).folder)
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths))[1])
    folder.rewind(2)
    assert events == ["fsync", "replace", "fsync"]  # the file, and the folder that names it
    assert [row["round"] for row in read_history(folder.path)] == [0, 1, 2]


def test_a_rounds_line_and_the_secret_are_on_disk_as_soon_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, str] = {}

    def fsync(descriptor: int) -> None:
        path = next(path for path in tmp_path.iterdir() if os.path.samestat(path.stat(), os.fstat(descriptor)))
        synced[path.name] = path.read_text()

    monkeypatch.setattr(os, "fsync", fsync)
    folder = RunFolder(tmp_path)
    for number in range(2):
        folder.append({"round": number, "test_loss": float("inf"), "val_loss": float("nan"), "lr": 0.5})
        assert synced["metrics.jsonl"].splitlines()[number:] == [
            f'{{"round": {number}, "test_loss": null, "val_loss": null, "lr": 0.5}}'
        ]
    folder._write_secret(12345)
    assert synced["secret"].splitlines()[0] == "12345"
    assert folder.secret() == 12345


def process_id(alive: bool) -> int:
    """The id of this process's parent, or of a process that has ended."""
    return os.getppid() if alive else int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                                                         capture_output=True, check=True).stdout)  # fmt: skip


def test_what_a_killed_creation_leaves_is_removed_at_the_next_start(tiny: Tiny) -> None:
    config = tiny(rounds=1)
    others = [".run.x.partial", ".running.1.partial", f".run.{process_id(alive=True)}.partial"]
    dead = [f".run.{process_id(alive=False)}.partial", f".run.{os.getpid()}.partial"]
    for name in (*others, *dead):
        (config.folder.parent / name).mkdir()
        (config.folder.parent / name / "config.yaml").touch()
    run(config, quiet=True)
    assert sorted(path.name for path in config.folder.parent.iterdir()) == sorted([*others, "run"])


class Listening(InProcessGrid):
    """Keeps the text of all messages and replies."""

    def __init__(self, clients: int) -> None:
        super().__init__(client_app, clients)
        self.heard: list[str] = []

    def _hear(self, message: Message) -> None:
        if not message.has_error():
            records = message.content.items()
            self.heard += [str(record) for _, record in records if not isinstance(record, ArrayRecord)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        for message in messages:
            self._hear(message)
        return super().push_messages(messages)

    def handle(self, message: Message) -> Message:
        reply = super().handle(message)
        self._hear(reply)
        return reply


def files_with(folder: Path, number: int) -> list[str]:
    """The files that hold a number, in decimals or as bytes."""
    size = max(1, (number.bit_length() + 7) // 8)
    forms = [str(number).encode(), number.to_bytes(size, "little"), number.to_bytes(size, "big")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(form in path.read_bytes() for form in forms)]


def private(tiny: Tiny, **fields: Any) -> RunConfig:
    return tiny(dp="fixed", rounds=1, tensorboard=True, **fields)


def test_nobody_but_the_server_knows_the_secret(tiny: Tiny) -> None:
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed: pip install -e '.[dp]'")
    grid = Listening(3)
    folder = RunFolder(run(private(tiny), quiet=True, grid=grid).folder)
    secret = folder.secret()
    assert secret.bit_length() > 64
    assert stat.S_IMODE((folder.path / "secret").stat().st_mode) == 0o600
    assert files_with(folder.path, secret) == ["secret"]
    assert grid.heard
    assert not [text for text in grid.heard if str(secret) in text]


def test_secrets_differ_from_run_to_run_and_stay_with_the_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed: pip install -e '.[dp]'")
    other = RunFolder(run(private(tiny, output=tmp_path / "other"), quiet=True).folder)
    with monkeypatch.context() as patch:
        fail_in_round(patch, 1, {0, 1, 2}, ValueError())
        with pytest.raises(RunFailed):
            run(private(tiny), quiet=True)
    folder = RunFolder(tiny().folder)
    secret = folder.secret()
    assert secret != other.secret()
    run(private(tiny), quiet=True)
    assert folder.secret() == secret
    check = (folder.path / "secret").read_text().split()[1]
    for wrong in ("guess", f"{secret ^ 1}\n{check}\n", f"{secret}\n{check[:-1]}\n"):
        (folder.path / "secret").write_text(wrong)
        with pytest.raises(UserError, match="secret is missing or damaged"):
            folder.secret()
    (folder.path / "secret").write_text(f"{secret}\n")  # of an earlier version
    assert folder.secret() == secret


def test_a_run_without_privacy_has_no_secret(tiny: Tiny) -> None:
    folder = RunFolder(run(tiny(rounds=1), quiet=True).folder)
    with pytest.raises(UserError, match="secret is missing or damaged"):
        folder.secret()


def test_a_secret_that_is_given(tiny: Tiny) -> None:
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed: pip install -e '.[dp]'")
    number, grid = 7234567890123456789012345678901234567, Listening(3)
    config = private(tiny, dp_secret=number)
    assert str(number) not in dry_run(config)
    folder = RunFolder(run(config, quiet=True, grid=grid).folder)
    assert folder.secret() == number
    assert files_with(folder.path, number) == ["secret"]
    assert not [text for text in grid.heard if str(number) in text]
    assert yaml.safe_load((folder.path / "config.yaml").read_text()).get("dp_secret") is None
    assert from_yaml((folder.path / "config.yaml").read_text())
    assert run(config, quiet=True).resumed_from == 1
    assert run(private(tiny), quiet=True).resumed_from == 1, "it need not be given again"
    with pytest.raises(UserError, match="began with another --dp-secret"):
        run(private(tiny, dp_secret=number + 1), quiet=True)
