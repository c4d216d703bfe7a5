"""One malformed input, tried: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PROGRAMS = (
    "run_fl",
    "run_pretrain",
    "experiments.report",
    "experiments.curve",
    "experiments.compare",
    "experiments.table",
    "experiments.probe",
)
"""The programs that are tried."""


@dataclass(frozen=True)
class Case:
    """A command line with something wrong.

    Attributes:
        name: what is wrong, in a few words.
        program: one of ``PROGRAMS``.
        arguments: its command line, ``{here}`` standing for the case's folder.
        prepare: writes into the case's folder before the program is called.
        codes: exit codes that are right.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda here: None
    codes: tuple[int, ...] = (2,)


def attempt(case: Case, here: Path, *, alone: bool = False) -> str | None:
    """Try a case in a new folder.

    Args:
        case: what to try.
        here: the folder; it is made.
        alone: try it in a process of its own.

    Returns:
        What was not as it should be; None if the case was handled.
    """
    here.mkdir(parents=True)
    case.prepare(here)
    arguments = [argument.replace("{here}", str(here)) for argument in case.arguments]
    before = _everything(here)
    code, said = (_alone if alone else _here)(case.program, arguments)
    if code not in case.codes:
        return f"exit code {code}, said {said[-2000:]!r}"
    if code == 2 and said.count("\n") != 1:
        return f"not one line: {said[-2000:]!r}"
    if "Traceback" in said:
        return said[-2000:]
    if any(part in said for part in ("╭", "│", "╰", "-" * 10)):
        return f"a box: {said!r}"
    if code == 2 and _everything(here) != before:
        return f"files were written: {sorted(set(_everything(here)) ^ set(before))}"
    return None


def _everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and kinds of what lies below a folder."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(parent, name))
            found[os.path.join(parent, name)] = (status.st_size * (not stat.S_ISDIR(status.st_mode)), status.st_mode)
    return found


def _here(program: str, arguments: list[str]) -> tuple[int, str]:
    from fps_pretrain.common import cli

    said, argv = io.StringIO(), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            sys.argv = [program, *arguments]
            module = importlib.import_module("experiments.report.__main__" if program.endswith("report") else program)
            if program == "run_pretrain":
                code = module.main(arguments)
            elif hasattr(module, "parse"):
                code = cli.run(module.PROG, module.main, module.parse(arguments))
            else:
                name = program.rpartition(".")[2]
                config = getattr(module, f"{name.capitalize()}Config")
                code = cli.run(module.PROG, module.main, cli.parse(config, module.PROG, arguments))
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException:
            code = 1
            traceback.print_exc()
        finally:
            sys.argv = argv
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return code, said.getvalue()


def _alone(program: str, arguments: list[str]) -> tuple[int, str]:
    start = ["-m", program] if program.startswith("experiments") else [str(REPOSITORY / f"{program}.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *start, *arguments], cwd=REPOSITORY, capture_output=True, timeout=300, env=environment
    )
    return done.returncode, done.stderr.decode(errors="replace")
