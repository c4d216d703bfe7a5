"""The folder of a pre-training run: whose it is, where it stands, and whether it is finished.

Only the first process of a run (rank 0) changes the folder. The others, which a cluster may start at the same moment,
wait until it has said which state all of them go on from.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import LOCK, keep_existing, locked, write_text_atomically
from fps_pretrain.config.pretrain import PretrainConfig, read_yaml, write_yaml
from fps_pretrain.models.checkpoint import read_file
from fps_pretrain.training.resume import PREVIOUS, STATE, newest_state

CONFIG = "config.yaml"
RESULT = "result.json"
LAUNCH = ".launch.json"
LAUNCH_TIMEOUT = 600.0
"""Seconds that the other processes wait for the first."""


def open_run(config: PretrainConfig, say: Any, held: ExitStack) -> Path | None:
    """Take the run folder of a resolved configuration for this process and make it ready.

    Args:
        config: the configuration.
        say: takes a line for the user.
        held: keeps the folder locked until it is closed.

    Returns:
        The state to resume from, or None for a fresh start.

    Raises:
        UserError: the folder holds something else than a run of this configuration, or another process works there.
    """
    folder = config.run_dir
    assert folder is not None
    if not config.resume and (kept := _keep_aside(folder)):
        say(f"kept the earlier run as {kept}")
    _refuse_another_run(config)
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(folder))
    # Check again under the lock, and clear what a killed process was writing.
    _refuse_another_run(config)
    for path in _partials(folder):
        path.unlink(missing_ok=True)
    write_yaml(folder / CONFIG, config)
    state = newest_state(folder)
    torn = folder / STATE
    if torn.exists() and state != torn:
        say(f"{torn} is torn: " + (f"going on from {state}" if state else f"and there is no {PREVIOUS}, starting over"))
    return state


def _keep_aside(folder: Path) -> Path | None:
    """``keep_existing``, unless another process works in the folder."""
    with locked(folder) if (folder / LOCK).exists() else nullcontext():
        return keep_existing(folder)


def _partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".") and path.suffix == ".partial"]


def _refuse_another_run(config: PretrainConfig) -> None:
    """Accept a folder that does not exist, one without a run in it, and one that holds this configuration's run.

    Raises:
        UserError: the folder holds something else. It is left as it is.
    """
    folder = config.run_dir
    assert folder is not None
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--run-dir {folder} is not a folder: name another one")
    # A process killed at the start leaves the lock's file and what it was writing.
    if not folder.exists() or not set(folder.iterdir()) - {*_partials(folder), folder / LOCK}:
        return
    if not (folder / CONFIG).is_file():
        raise UserError(f"--run-dir {folder} exists and is not a pre-training run: name another folder")
    differing = config.differing_fields(read_yaml(folder / CONFIG))
    if differing:
        flags = ", ".join("--" + name.replace("_", "-") for name in differing)
        raise UserError(
            f"--run-dir {folder} holds a run with other {flags}: "
            "name another folder, or pass --no-resume to keep it aside and start over"
        )


def finished_result(config: PretrainConfig) -> dict[str, Any] | None:
    """``result_of`` a run that is to be resumed, before anything is written: a finished one may be read-only.

    Raises:
        UserError: the folder holds something else than a run of this configuration.
    """
    if not config.resume:
        return None
    _refuse_another_run(config)
    return result_of(config)


def result_of(config: PretrainConfig) -> dict[str, Any] | None:
    """What a finished run of this configuration wrote, if its encoder is still there; None otherwise."""
    assert config.run_dir is not None
    assert config.output is not None
    try:
        result = json.loads((config.run_dir / RESULT).read_text())
        stored = read_file(config.output)["provenance"]["digest"]
    except (OSError, ValueError, KeyError, TypeError):  # UserError is a ValueError
        return None
    return result if result.get("digest") == stored else None


def _launch_key(first: bool) -> str:
    """What all processes of one launch, and no others, have in common: a cluster's job, or the process that began."""
    names = (
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        "SLURM_RESTART_COUNT",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
    )
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return " ".join(given) or f"process {os.getpid() if first else os.getppid()}"


def tell_others(folder: Path, state: Path | None) -> None:
    """Rank 0 says which state this launch goes on from."""
    launch = {"key": _launch_key(first=True), "state": state.name if state else None}
    write_text_atomically(folder / LAUNCH, json.dumps(launch))


def wait_for_first(folder: Path) -> Path | None:
    """The state that rank 0 has named for this launch.

    Raises:
        UserError: it has said nothing for ``LAUNCH_TIMEOUT`` seconds.
    """
    key = _launch_key(first=False)
    end = time.monotonic() + LAUNCH_TIMEOUT
    while time.monotonic() < end:
        try:
            launch = json.loads((folder / LAUNCH).read_text())
        except (OSError, ValueError):
            launch = {}
        if launch.get("key") == key:
            return folder / launch["state"] if launch["state"] else None
        time.sleep(0.2)
    raise UserError(f"the first process of this run has not opened {folder}: see its messages")
