"""Run the repository's programs in processes that have already imported torch, Flower and Lightning.

``python -m tests.tools.warm`` imports them once, and forks for each request: one line of JSON on stdin with ``argv``,
``cwd``, ``environment`` and the files ``stdout`` and ``stderr``. Its answers are the process id of the fork, and its
exit code when it has ended. In the fork the program is ``__main__``: what it prints and its exit code are those of a
fresh interpreter. What a program imports, and what its imports print, only a fresh interpreter shows.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

HEAVY = (
    "fps_pretrain.training.run", "fps_pretrain.pairs.gallery", "federated.server.run", "federated.server.rounds",
    "sklearn.datasets", "sklearn.model_selection", "flwr_datasets.partitioner", "matplotlib.figure",
    "experiments.compare",
)  # fmt: skip


class Programs:
    """The client's side: starts the process with everything imported at the first program."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, argv: list[str], cwd: Path, environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """What ``python ARGV`` does, with the text that it prints; ``argv`` begins with a file or with ``-m``.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
        """
        server = self._started()
        assert server.stdin is not None
        assert server.stdout is not None
        files = {name: str(self._folder / name) for name in ("stdout", "stderr")}
        request = {"argv": argv, "cwd": str(cwd), "environment": environment, **files}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        late = threading.Event()
        timer = threading.Timer(timeout, lambda: (late.set(), os.kill(process, signal.SIGKILL)))
        timer.start()
        code = int(server.stdout.readline())
        timer.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired(argv, timeout)
        output, errors = (Path(path).read_text() for path in files.values())
        return subprocess.CompletedProcess(argv, code, output, errors)

    def _started(self) -> subprocess.Popen[str]:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.tools.warm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).resolve().parents[2],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        return self._server

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate(timeout=30)


def _serve() -> dict[str, object]:
    """Answer requests until there are no more; returns in each fork with what it is to do."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            request: dict[str, object] = json.loads(line)
            return request
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def _become(request: dict[str, object]) -> None:
    """Take over the files, folder, environment and arguments of a program."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[arg-type,call-overload]


def _execute(argv: list[str]) -> int:
    """Run a program to its end; returns its exit code."""
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            sys.modules.pop(argv[1], None)  # Runpy warns of a program that was imported before.
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv
            sys.path[0] = str(Path(argv[0]).parent)
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


if __name__ == "__main__":
    for heavy in HEAVY:
        importlib.import_module(heavy)
    gc.collect()
    gc.freeze()  # A collection in a fork would copy all memory.
    work = _serve()
    _become(work)
    code = _execute(work["argv"])  # type: ignore[arg-type]
    # As an interpreter ends, without taking apart what was imported: that, too, would copy all memory.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)
