"""One side of a comparison: runs jobs in the checkout that is its working directory.

Only what a user of the project may rely on is used: run_fl.py and run_pretrain.py as programs, and ``FPSPairs``. A job
is a line of JSON on stdin; its exit code is the answer, a line on stdout. Each job has a forked process of its own, so
that the libraries are imported once and nothing of the project is left over from one job to the next.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import site
import sys
import sysconfig
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 600
"""Seconds after which a job is ended."""

LIBRARIES = (
    *("numpy", "numba", "cv2", "tyro", "yaml", "torch", "torchvision", "torch._dynamo", "torch.utils.tensorboard"),
    *("flwr.app", "flwr.serverapp", "flwr.clientapp", "pytorch_lightning", "lightly.loss", "lightly.transforms"),
    *("lightly.utils.benchmarking", "jinja2", "sklearn.datasets", "sklearn.datasets.data", "sklearn.neighbors"),
    *("matplotlib.figure", "dp_accounting.rdp"),
)
"""What takes seconds to import. None of it is the project's; what is missing is left out."""


def foreign_modules(checkout: Path) -> list[str]:
    """Modules of this process that come neither from the checkout nor from Python and its packages."""
    places = [*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), *site.getsitepackages()]
    roots = [checkout, *{Path(place).resolve() for place in places if place}]
    foreign = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not os.path.isabs(file) or not os.path.exists(file) or file == __file__:
            continue
        if not any(Path(file).resolve().is_relative_to(root) for root in roots):
            foreign.append(f"{name} from {file}")
    return foreign


def check_origin(checkout: Path) -> None:
    """See that the project's code in this process is the checkout's own.

    Raises:
        SystemExit: it is another's.
    """
    package = importlib.import_module("fps_pretrain")
    assert package.__file__ is not None
    if not Path(package.__file__).resolve().is_relative_to(checkout):
        raise SystemExit(f"fps_pretrain is imported from {package.__file__}, not from {checkout}")
    if foreign := foreign_modules(checkout):
        raise SystemExit(f"not of {checkout}: {'; '.join(foreign)}")


def die_at(file: Path, lines: int) -> None:
    """End this process by SIGKILL at its first write beside ``file`` once that has so many lines."""
    process = os.getpid()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR)
        else:
            writes = event in ("os.rename", "os.remove")
        if writes and str(file.parent) in str(arguments[0]) and os.getpid() == process:
            with contextlib.suppress(OSError):
                if len(file.read_bytes().splitlines()) >= lines:
                    os.kill(process, signal.SIGKILL)

    sys.addaudithook(watch)


def make_pairs(folder: Path, options: dict[str, dict[str, Any]]) -> None:
    """Save three batches of ``FPSPairs`` with each of these options, by a name for them, as ``pairs.pt``."""
    import torch

    from fps_pretrain import FPSPairs  # type: ignore[attr-defined]

    made = {}
    for name, chosen in options.items():
        for number, views in zip(range(3), FPSPairs(**chosen), strict=False):
            made.update({f"{name} batch {number} view {view}": tensor for view, tensor in enumerate(views)})
    torch.save({"state_dict": made}, folder / "pairs.pt")


def work(job: dict[str, Any], checkout: Path) -> None:
    """Do a job in this process.

    Raises:
        SystemExit: with the job's exit code, where it has one.
    """
    if job.get("kill"):
        file, lines = job["kill"]
        die_at(Path(file), lines)
    if "pairs" in job:
        make_pairs(Path(job["folder"]), job["pairs"])
        return
    script, *arguments = job["command"]
    sys.argv = [str(checkout / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _begin(job: dict[str, Any]) -> None:
    """Make the forked process one that a shell might have started: no input, its output to a file, and a time limit."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    signal.alarm(PATIENCE)


def _warm_up() -> None:
    """Import the libraries, do once what takes them a second at first, and draw no plots, which are not compared."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        import numba
        import numpy as np

        numba.njit(lambda x: x[0] + np.sqrt(x).sum())(np.ones(2))
    with contextlib.suppress(ImportError):
        from matplotlib.figure import Figure

        def savefig(self: Figure, target: Any, **_: Any) -> None:
            target.write(b"") if hasattr(target, "write") else Path(target).write_bytes(b"")

        Figure.savefig = savefig  # type: ignore[method-assign]
    gc.freeze()  # what is here now need not be looked at, and so copied, by each forked process


def _exit_code(job: dict[str, Any], checkout: Path) -> int:
    """The exit code that Python would give a program that does this job."""
    try:
        try:
            work(job, checkout)
        except SystemExit as exit_:
            if exit_.code:
                raise
        check_origin(checkout)
    except SystemExit as exit_:
        if isinstance(exit_.code, int):
            return exit_.code
        print(exit_.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End the forked process as Python ends, but for the second that it takes to clear the libraries away."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> NoReturn:
    """Answer jobs until stdin ends."""
    checkout = Path.cwd().resolve()
    _warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        if process := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            print(code, flush=True)
            continue
        _begin(job)
        _end(_exit_code(job, checkout))
    _end(0)


if __name__ == "__main__":
    main()
