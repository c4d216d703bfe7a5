"""Processes that begin with torch, Flower and Lightning imported.

They are forks of Python's forkserver, one for each pytest process, which imports ``tests.tools.imports`` first. In a
fork, a program of the repository is ``__main__``: what it prints and its exit code are those of a fresh interpreter.
What a program imports, and what its imports print, only a fresh interpreter shows.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
OURS = ("fps_pretrain", "federated", "experiments")


PRELOAD = ["tests.tools.imports"]
"""What Python's forkserver imports first."""


def context() -> ForkServerContext:
    """The context whose processes begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class Program:
    """A Python program in a process of its own, used like ``subprocess.Popen``.

    Args:
        command: what would follow ``python``: a file or ``-m MODULE``, and arguments. A first word that is the
            interpreter itself is left out.
        stdout: a file that the program appends to; None for nowhere.
        stderr: the same.
        stdin: always nothing, whatever is given.
        cwd: where the program begins; here if None.
        env: its environment; this process's if None.
        start_new_session: whether it is alone in its process group.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        stdin: object = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        argv = [str(word) for word in command]
        self.args = argv[1:] if argv[0] == sys.executable else argv
        files = [os.devnull if file is None else str(file.name) for file in (stdout, stderr)]
        environment = dict(os.environ if env is None else env)
        self._process = context().Process(
            target=_become, args=(self.args, files, str(cwd or Path.cwd()), environment, start_new_session)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it is still there."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not ended after so many seconds.
        """
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def _become(argv: list[str], files: list[str], cwd: str, environment: dict[str, str], session: bool) -> None:
    """Take over the files, folder and environment of a program, run it, and end this process."""
    if session:
        os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for descriptor, name in enumerate(files, 1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    code = _execute(argv, Path(cwd))
    # As an interpreter ends, without taking apart what was imported: that would copy all memory.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def _execute(argv: list[str], cwd: Path) -> int:
    """Run a program to its end; returns its exit code."""
    if argv[0] != "-m" and ROOT not in (cwd / argv[0]).resolve().parents:
        _forget_ours()
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            sys.modules.pop(argv[1], None)  # Runpy warns of a program that was imported before.
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv
            sys.path.insert(0, str((cwd / argv[0]).parent))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or 0
        print(exit_.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _forget_ours() -> None:
    """Have a program of another checkout import that checkout's modules."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
