"""Several processes that train together, as a launcher starts them."""

import os
import socket

from tests.conftest import REPOSITORY
from tests.tools import warm

OPTIONS = [
    "--arch", "resnet8", "--size", 16, "--pairs-per-epoch", 96, "--batch-size", 16, "--precision", "32", "--workers", 0,
    "--threads", 1, "--device", "cpu", "--log-every", 1, "--probe-every", 0,
]  # fmt: skip
"""Of runs that take a moment."""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(rank, port):
    """The variables that torchrun gives a process; its run has no name of its own with a static rendezvous."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def start(folder, options, variables, log):
    """``run_pretrain.py`` with these environment variables; its run and encoder are in ``folder``, and what it says."""
    command = [REPOSITORY / "run_pretrain.py", *options, "--run-dir", folder / "run", "--output", folder / "out.pt"]
    with log.open("w") as file:
        return warm.Program(command, stderr=file, env=os.environ | variables | {"OMP_NUM_THREADS": "1"})


def wait(tasks, seconds):
    """Their exit codes; none of them is left."""
    try:
        return [task.wait(seconds) for task in tasks]
    finally:
        for task in tasks:
            task.kill()
