"""The folder of a pre-training run: whose it is, where it stands, and whether it is finished.

Only the first process of a run (rank 0) changes the folder. The others, which a cluster may start at the same moment,
wait until it has said which state all of them go on from.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_text_atomically
from fps_pretrain.config.pretrain import PretrainConfig, read_yaml, write_yaml
from fps_pretrain.models.checkpoint import keep_existing, read_file
from fps_pretrain.training.resume import PREVIOUS, STATE, newest_state

CONFIG = "config.yaml"
RESULT = "result.json"
LAUNCH = ".launch.json"
LAUNCH_TIMEOUT = 600.0
"""Seconds that the other processes wait for the first."""


def open_run(config: PretrainConfig, say: Any) -> Path | None:
    """Make the run folder of a resolved configuration ready.

    Args:
        config: the configuration.
        say: takes a line for the user.

    Returns:
        The state to resume from, or None for a fresh start.

    Raises:
        UserError: the folder holds something else than a run of this configuration.
    """
    folder = config.run_dir
    assert folder is not None
    if not config.resume and (kept := keep_existing(folder)):
        say(f"kept the earlier run as {kept}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--run-dir {folder} is not a folder: name another one")
    folder.mkdir(parents=True, exist_ok=True)
    # A kill leaves what was being written, and a folder of another run that is all there is to it.
    partial = [path for path in folder.iterdir() if path.name.startswith(".") and path.suffix == ".partial"]
    if set(folder.iterdir()) - set(partial):
        if not (folder / CONFIG).is_file():
            raise UserError(f"--run-dir {folder} exists and is not a pre-training run: name another folder")
        differing = config.differing_fields(read_yaml(folder / CONFIG))
        if differing:
            flags = ", ".join("--" + name.replace("_", "-") for name in differing)
            raise UserError(
                f"--run-dir {folder} holds a run with other {flags}: "
                "name another folder, or pass --no-resume to keep it aside and start over"
            )
    for path in partial:
        path.unlink(missing_ok=True)
    write_yaml(folder / CONFIG, config)
    state = newest_state(folder)
    torn = folder / STATE
    if torn.exists() and state != torn:
        say(f"{torn} is torn: " + (f"going on from {state}" if state else f"and there is no {PREVIOUS}, starting over"))
    return state


def result_of(config: PretrainConfig) -> dict[str, Any] | None:
    """What a finished run of this configuration wrote, if its encoder is still there; None otherwise."""
    assert config.run_dir is not None
    assert config.output is not None
    try:
        result = json.loads((config.run_dir / RESULT).read_text())
        stored = read_file(config.output)["provenance"]["digest"]
    except (OSError, ValueError, KeyError, TypeError, UserError):
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
