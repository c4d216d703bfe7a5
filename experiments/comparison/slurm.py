"""Runs of a comparison as jobs of a Slurm cluster, through submitit (``pip install -e '.[slurm]'``).

A job whose time is up, or that is preempted, is queued again and goes on from its run's last completed round. The
comparison's folder must be on storage that this machine and the cluster's share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError, check_installed

MOST_RESTARTS = 100
"""How often a job whose time is up is queued again."""

MINUTES = 60
"""Time limit of a job that names none; Slurm's own default may be less than a round takes."""


class RunTask:
    """What a job does: carry out the run that a YAML file describes. Returns the exit code."""

    def __init__(self, config: Path, threads: int) -> None:
        self.config, self.threads = config, threads

    def __call__(self) -> int:
        """Do it; a reason to stop is a line on stderr."""
        os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))  # before anything imports torch
        from experiments.comparison import single_run

        try:
            return cli.run(single_run.PROG, single_run.main, str(self.config))
        except SystemExit as exit_:  # a refusal
            return exit_.code if isinstance(exit_.code, int) else 1

    def checkpoint(self) -> Any:
        """What submitit queues when the time is up: the same again, since the run folder holds the state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Job:
    """A job that is used like the process of a run beside this one, ``subprocess.Popen``.

    Attributes:
        returncode: the run's exit code once it has ended, 1 for a job that left none.
    """

    def __init__(self, job: Any, errors: Path) -> None:
        self._job, self._errors = job, errors
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while the job waits or runs. At its end what it complained of is in the errors' file."""
        if self.returncode is None and self._job.done():
            self._errors.write_text(self._job.stderr() or f"job {self._job.job_id}: {self._job.state}")
            try:
                self.returncode = int(self._job.result())
            except Exception:  # submitit raises whatever became of the job, which the errors' file says
                self.returncode = 1
        return self.returncode

    def terminate(self) -> None:
        """Cancel the job; the run's last completed round is on disk."""
        self._job.cancel(check=False)

    def kill(self) -> None:
        """Nothing more than ``terminate`` has done."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Does not wait: a cancelled job is Slurm's."""
        return self.returncode


class Cluster:
    """Starts runs as jobs.

    Args:
        options: options of sbatch as ``NAME=VALUE``, such as ``time=240`` (minutes) or ``gpus_per_node=1``.
        folder: for the jobs' files and logs, on shared storage.

    Raises:
        UserError: submitit is missing, this machine has no Slurm, or an option is none.
    """

    shared = False

    def __init__(self, options: Sequence[str], folder: Path) -> None:
        check_installed("--slurm", "submitit", "submitit", extra="slurm")
        import submitit

        self.scratch: Path | None = folder
        try:
            self._executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_RESTARTS)
        except RuntimeError:
            raise UserError("--slurm: this machine has no srun; start the comparison where sbatch works") from None
        values = {"time": MINUTES, **dict(map(_option, options))}
        try:
            self._executor.update_parameters(job_name="fps-compare", **values)
        except (ValueError, TypeError) as error:
            unknown = str(error).splitlines()[0]
            raise UserError(f"--slurm: {unknown}") from None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, config: Path, errors: Path, threads: int, slot: int) -> Job:
        """Submit the run of a configuration file.

        Raises:
            UserError: Slurm refuses the job.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            return Job(self._executor.submit(RunTask(config, threads)), errors)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"--slurm: sbatch refused the job: {str(error).strip().splitlines()[-1]}") from None


def check(options: Sequence[str]) -> None:
    """Check how options are written.

    Raises:
        UserError: one is not NAME=VALUE, or the time is not in minutes.
    """
    for option in options:
        name, value = _option(option)
        if name == "time" and not isinstance(value, int):
            raise UserError(f"--slurm time must be a whole number of minutes, got {value!r}")


def _option(text: str) -> tuple[str, int | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"--slurm takes NAME=VALUE, such as time=240 or partition=gpu, got {text!r}")
    return name.replace("-", "_"), int(value) if value.isdecimal() else value
