"""The folder of a pre-training run: whose it is, where it stands, and whether it is finished.

Only rank 0 of a run opens the folder; ``launch`` tells the other processes what it has found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from fps_pretrain.common.errors import KEPT, UserError
from fps_pretrain.common.files import LOCK, PARTIALS, keep_existing, locked, read_text, remove_partials
from fps_pretrain.common.log import logger
from fps_pretrain.config.pretrain import PretrainConfig, read_yaml, write_yaml
from fps_pretrain.models.checkpoint import digest_held
from fps_pretrain.models.hardware import Precision
from fps_pretrain.training.devices import with_precision
from fps_pretrain.training.resume import PREVIOUS, STATE, check_state, newest_state

CONFIG = "config.yaml"
RESULT = "result.json"


def open_run(
    config: PretrainConfig, native: Precision, held: ExitStack, like: Mapping[str, Tensor]
) -> tuple[PretrainConfig, Path | None]:
    """Take the run folder of a resolved configuration for this process and make it ready.

    Args:
        config: the configuration.
        native: the precision that ``--precision auto`` takes here, ``32`` or ``bf16``, when a run begins.
        held: keeps the folder locked until it is closed.
        like: the state dict of the method before training, which a state to resume from must fit.

    Returns:
        The configuration with its precision resolved, as the folder's config.yaml now holds it; and the state to resume
        from, or None for a fresh start.

    Raises:
        UserError: the folder holds something else than a run of this configuration, or a state that does not fit it, or
            another process works there.
    """
    folder = config.run_dir
    assert folder is not None
    if not config.resume and (kept := keep_existing(folder)):
        logger.info(KEPT, kept)
    _examine(config, native)
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(folder))
    asked, config = config, _examine(config, native)  # Check again under the lock.
    if asked.precision == "auto" and config.precision == "bf16" and native != "bf16":
        logger.info(f"{folder} goes on in bfloat16, as it began: slowly, without instructions for it here")
    state = newest_state(folder)
    if state is not None:
        check_state(state, like, config.total_steps)
    remove_partials(folder)
    write_yaml(folder / CONFIG, config)
    torn = folder / STATE
    if torn.exists() and state != torn:
        found = f"going on from {state}" if state else f"and there is no {PREVIOUS}, starting over"
        logger.info(f"{torn} is torn: {found}")
    return config, state


def _examine(config: PretrainConfig, native: Precision) -> PretrainConfig:
    """The configuration with its precision resolved, if its run folder is empty or holds its run.

    Raises:
        UserError: the folder holds something else. It is left as it is.
    """
    folder = config.run_dir
    assert folder is not None
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--run-dir {folder} is not a folder: name another one")
    # A process killed at the start leaves the lock's file and what it was writing.
    if not folder.exists() or not set(folder.iterdir()) - {*folder.glob(PARTIALS), folder / LOCK}:
        return _with_precision_of(None, config, native)
    if not (folder / CONFIG).is_file():
        raise UserError(f"--run-dir {folder} exists and is not a pre-training run: name another folder")
    saved = read_yaml(folder / CONFIG)
    config = _with_precision_of(saved, config, native)
    _refuse_if_different(config, saved)
    return config


def finished_result(config: PretrainConfig, native: Precision) -> dict[str, Any] | None:
    """``result_of`` a run that is to be resumed, before anything is written: a finished one may be read-only.

    Raises:
        UserError: the folder holds something else than a run of this configuration.
    """
    if not config.resume:
        return None
    _examine(config, native)
    return result_of(config)


def _with_precision_of(saved: dict[str, Any] | None, config: PretrainConfig, native: Precision) -> PretrainConfig:
    """``--precision auto`` resolved: a resumed run keeps its precision, whatever this machine prefers."""
    stored = str(saved.get("precision")) if saved else None
    resolved = with_precision(config, native, stored)
    if saved is not None and stored == config.precision == "auto":  # written before the resolved value was stored
        saved["precision"] = resolved.precision
    return resolved


def _refuse_if_different(config: PretrainConfig, saved: dict[str, Any]) -> None:
    if differing := config.differences(saved):
        raise UserError(
            f"--run-dir {config.run_dir} is a run of another configuration, with {', '.join(differing)}: "
            "name another folder, or pass --no-resume to keep it aside and start over"
        )


def result_of(config: PretrainConfig) -> dict[str, Any] | None:
    """What a finished run of this configuration wrote, if its encoder is still there; None otherwise."""
    assert config.run_dir is not None
    assert config.output is not None
    try:
        result = json.loads(read_text(config.run_dir / RESULT))
    except (UserError, ValueError, RecursionError):
        return None
    if not isinstance(result, dict) or type(result.get("pairs_seen")) is not int:
        return None
    return result if result.get("digest") == digest_held(config.output) is not None else None
