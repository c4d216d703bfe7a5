"""The runs of a comparison, one after the other or side by side."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from experiments.comparison.single_run import EXIT_DIVERGED
from federated.config.run import RunConfig, init_name, to_yaml
from federated.server.output import file_names
from fps_pretrain.common.errors import DIVERGES_AGAIN, EXIT_FAILED, RESUMABLE
from fps_pretrain.common.files import locked

POLL_SECONDS = 0.2
"""Pause between looks at the processes."""

STOP_TIMEOUT_SECONDS = 30
"""How long an interrupted process may take to save its state before it is killed."""


class ComparisonFailed(RuntimeError):
    """Runs could not go on; the message names each with its folder."""


class Failure(NamedTuple):
    """Why a run has no end.

    Attributes:
        reason: in one line.
        diverged: whether training diverges, and so would again; a failure of another kind may not come again.
    """

    reason: str
    diverged: bool = False

    @property
    def advice(self) -> str:
        """What to do."""
        return DIVERGES_AGAIN if self.diverged else RESUMABLE


def name_of(run: RunConfig) -> str:
    """A run in a few words, for the screen."""
    return f"{init_name(run.init)}{', centralised' if run.clients == 1 else ''}, lr {run.lr:g}, seed {run.seed}"


def run_here(run: RunConfig, number: int, count: int) -> Failure | None:
    """Carry out a run, the ``number``th of ``count``, in this process, unless it is finished; says why it failed."""
    from federated.results.evaluation import evaluate
    from federated.server import run as rounds

    print(f"[{number}/{count}] {run.init}, lr {run.lr:g}, seed {run.seed}", file=sys.stderr)
    try:
        rounds.run(run)
    except rounds.RunFailed as error:
        return Failure(str(error), isinstance(error, rounds.Diverged))
    evaluate(run)
    return None


class Process(Protocol):
    """What carries out a run elsewhere, with the methods of ``subprocess.Popen``."""

    @property
    def returncode(self) -> int | None:
        """The exit code once it has ended."""

    def poll(self) -> int | None:
        """The same, after a look at it."""

    def terminate(self) -> None:
        """Ask it to end."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end; raises ``subprocess.TimeoutExpired``."""

    def kill(self) -> None:
        """End it."""


class Launcher(Protocol):
    """Where runs are carried out."""

    scratch: Path | None
    """Folder for the configuration files; None for a temporary one of this machine."""

    shared: bool
    """Whether the runs share one machine's cores."""

    def start(self, config: Path, errors: Path, threads: int, slot: int) -> Process:
        """Begin the run of a configuration file, as the ``slot``th of those side by side, counted from 1.

        What it complains of belongs into ``errors``.
        """


class LocalLauncher:
    """Starts runs as processes of this machine, in turn on each of its GPUs."""

    scratch: Path | None = None
    shared = True

    def start(self, config: Path, errors: Path, threads: int, slot: int) -> Process:
        """Begin a process in a session of its own, so that only ``_stop``, or the end of this process, ends it."""
        from fps_pretrain.models.hardware import gpu_of

        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **gpu_of(slot)}
        command = [sys.executable, "-m", "experiments.comparison.single_run", str(config)]
        with errors.open("wb") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=environment
            )


@dataclass
class _Job:
    """What carries out a run, the file it complains into, its bar and the bar's line on the screen."""

    run: RunConfig
    process: Process
    errors: Path
    bar: Any
    slot: int

    def show(self) -> None:
        """Bring the bar to the number of completed rounds."""
        self.bar.update(done_rounds(self.run) - self.bar.n)


def done_rounds(run: RunConfig) -> int:
    """How many rounds a run's folder holds, the evaluation before the first left out."""
    try:
        with (run.folder / file_names.METRICS).open("rb") as file:
            return max(0, sum(1 for _ in file) - 1)
    except OSError:
        return 0


def is_finished(run: RunConfig) -> bool:
    """Whether a run needs no more than to be read."""
    # With personal heads no classifier of the server's is evaluated, and the model is the last file.
    last = file_names.MODEL if run.personal == "head" else file_names.EVALUATION
    return done_rounds(run) == run.rounds and (run.folder / last).is_file()


def check_begun(runs: Sequence[RunConfig], *, data: bool) -> None:
    """Refuse runs that began from other weights, or on other data, than those that are to stand beside them.

    Args:
        runs: the runs; those without a state are left out.
        data: whether this machine has the data; they are read only if some run has rounds to do.

    Raises:
        UserError: an encoder's file or the data have changed since a run began.
    """
    from federated.data import sets
    from federated.server.output.run_folder import RunFolder
    from federated.server.start.initialise import initial_encoder
    from federated.server.start.resume_checks import check_data, check_init
    from fps_pretrain.models.checksum import digest

    folders = [(run, RunFolder.find(run.folder, run)) for run in runs]
    begun = [(run, folder.load_state()) for run, folder in folders if folder and folder.state_file.is_file()]
    for run, state in begun:
        check_init(state, run, digest(initial_encoder(run)[0].state_dict()))
    if not data or all(is_finished(run) for run in runs):
        return
    digests: dict[str, str] = {}  # by partition: where it is by who made the examples, that is part of the data
    for run, state in begun:
        if run.partition not in digests:
            digests[run.partition] = sets.load(run).digest()
        check_data(state, run, digests[run.partition])


def side_by_side(runs: Sequence[RunConfig], jobs: int, launcher: Launcher | None = None) -> dict[Path, Failure]:
    """Run what is missing, ``jobs`` at a time, each as a process with one thread; all on one screen.

    A run that fails does not stop the others. An interruption is passed on to the processes, which save their state.

    Args:
        runs: the runs; each has a folder of its own.
        jobs: how many processes.
        launcher: where they are; None for this machine.

    Returns:
        Why runs could not go on, by folder.
    """
    waiting, running = [run for run in reversed(runs) if not is_finished(run)], list[_Job]()
    failures: dict[Path, Failure] = {}
    launcher = launcher or LocalLauncher()
    with _scratch(launcher) as scratch, _total_bar(len(waiting)) as total:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    slot = min(set(range(1, jobs + 1)) - {job.slot for job in running})
                    running.append(_start(waiting.pop(), scratch, slot, launcher))
                time.sleep(POLL_SECONDS)
                for job in list(running):
                    job.show()
                    if job.process.poll() is not None:
                        running.remove(job)
                        _end(job, failures)
                        total.update()
        finally:
            _stop(running)
    return failures


@contextlib.contextmanager
def _scratch(launcher: Launcher) -> Iterator[Path]:
    """A folder for the configuration files. Its lock tells the runs of this machine that this process lives."""
    with tempfile.TemporaryDirectory(dir=launcher.scratch) as name, locked(Path(name)):
        yield Path(name)


def _total_bar(count: int) -> Any:
    return tqdm(total=count, unit="run", position=0, disable=not sys.stderr.isatty(), dynamic_ncols=True)


def _start(run: RunConfig, scratch: Path, slot: int, launcher: Launcher) -> _Job:
    config, errors = (scratch / f"{run.folder.name}{suffix}" for suffix in (".yaml", ".txt"))
    threads = run.threads or 1
    # The runs fill the cores already: workers of their own would only get into each other's way.
    workers = 0 if launcher.shared and run.workers == "auto" else run.workers
    config.write_text(to_yaml(replace(run, threads=threads, workers=workers)))
    process = launcher.start(config, errors, threads, slot)
    shown = sys.stderr.isatty()
    if not shown:
        print(f"began    {name_of(run)}", file=sys.stderr)
    bar = tqdm(
        total=run.rounds, initial=done_rounds(run), unit="round", desc=name_of(run), position=slot, leave=False,
        disable=not shown, dynamic_ncols=True,
    )  # fmt: skip
    return _Job(run, process, errors, bar, slot)


def _end(job: _Job, failures: dict[Path, Failure]) -> None:
    """Note why a process failed, if it did."""
    job.bar.close()
    code = job.process.returncode
    if code:
        said = job.errors.read_text(errors="replace").strip().splitlines()
        reason = said[-1] if said else ""
        diverged = code == EXIT_DIVERGED
        shown = EXIT_FAILED if diverged else code
        killed = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {shown}"
        failures[job.run.folder] = Failure(f"{reason} ({killed})" if reason else killed, diverged)
    tqdm.write(f"{'FAILED  ' if code else 'finished'} {name_of(job.run)}", file=sys.stderr)


def _stop(running: Sequence[_Job]) -> None:
    """Have processes save their state and end; a second interruption, or too long a wait, kills them.

    They get SIGTERM: what a shell starts in the background ignores SIGINT.
    """
    for job in running:
        job.process.terminate()
    last = time.monotonic() + STOP_TIMEOUT_SECONDS
    try:
        for job in running:
            job.process.wait(max(0.0, last - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # they are killed below
    finally:
        for job in running:
            job.process.kill()
            job.process.wait()
            job.bar.close()
