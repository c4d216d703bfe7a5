"""sbatch, srun, sacct and scancel of a cluster of one machine, as far as submitit uses them.

A job is the shell script that sbatch was given. Its state is a file in the folder that FAKE_SLURM names.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "sacct", "scancel")


def install(folder: Path) -> dict[str, str]:
    """Write the programs into ``folder``; returns the environment that finds them."""
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        program.chmod(0o755)
    return {"FAKE_SLURM": str(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def sbatch(folder: Path, script: str) -> None:
    """Start a job in the background."""
    number = len(list(folder.glob("*.pid"))) + 1
    nodes = {"SLURM_JOB_ID": number, "SLURM_NTASKS": 1, "SLURM_JOB_NUM_NODES": 1, "SLURM_NODEID": 0}
    ranks = {"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_JOB_NODELIST": "localhost"}
    environment = {**os.environ, **{name: str(value) for name, value in {**nodes, **ranks}.items()}}
    job = subprocess.Popen(
        ["sh", "-c", f'bash "{script}"; echo $? > {folder}/{number}.code'], env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (folder / f"{number}.pid").write_text(str(job.pid))
    print(f"Submitted batch job {number}")


def srun(*arguments: str) -> None:
    """Run the program with its output where it is told."""
    words = [word.replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0") for word in arguments]
    output, errors = words[words.index("--output") + 1], words[words.index("--error") + 1]
    program = words[words.index("--error") + 2 :]
    with open(output, "ab") as out, open(errors, "ab") as err:
        sys.exit(subprocess.run(program, stdout=out, stderr=err).returncode)


def sacct(folder: Path) -> None:
    """The states of all jobs."""
    print("JobID|State|NodeList")
    for pid in folder.glob("*.pid"):
        code = pid.with_suffix(".code")
        state = "RUNNING" if not code.exists() else "COMPLETED" if code.read_text().strip() == "0" else "FAILED"
        print(f"{pid.stem}|{state}|localhost")


def scancel(folder: Path, job: str) -> None:
    """End a job."""
    os.killpg(int((folder / f"{job}.pid").read_text()), signal.SIGKILL)
    (folder / f"{job}.code").write_text("9")


if __name__ == "__main__":
    root, (name, *words) = Path(os.environ["FAKE_SLURM"]), sys.argv[1:]
    match name:
        case "sbatch":
            sbatch(root, words[-1])
        case "srun":
            srun(*words)
        case "sacct":
            sacct(root)
        case "scancel":
            scancel(root, words[-1])
