"""One engine's turn in a process of its own: ``python -m benchmarks.federation.engines ENGINE``."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.federation.work import Work, stamp


def plain(work: Work) -> None:
    """A loop over clients and nothing else: one network, one running mean."""
    torch.set_num_threads(1)
    model, examples = work.network(), work.examples()
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    total = sum(len(labels) for _, labels in examples)
    for server_round in range(1, work.rounds + 1):
        mean = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in weights.items()}
        for number, (images, labels) in enumerate(examples):
            model.load_state_dict(weights)
            work.train(model, images, labels, torch.Generator().manual_seed(number))
            for name, tensor in model.state_dict().items():
                mean[name].add_(tensor.cpu(), alpha=len(labels) / total)
        weights = {name: mean[name].to(tensor.dtype) for name, tensor in weights.items()}
        stamp(server_round)


def ours(work: Work, engine: str, workers: int) -> None:
    """``run_fl.py``'s own run, which writes a line of measurements at the end of each round."""
    from federated.server.output.run_folder import Row, RunFolder
    from federated.server.run import run

    original = RunFolder.append

    def append(folder: RunFolder, row: Row) -> None:
        original(folder, row)
        if row["round"]:
            stamp(row["round"])

    RunFolder.append = append  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run(work.config(Path(folder) / "run", engine, workers), quiet=True)


def flower(work: Work) -> None:
    """An ordinary Flower app on Flower's simulation."""
    from benchmarks.federation import flower_app

    flower_app.simulate(work)


def pfl(work: Work) -> None:
    """pfl-research, in one process."""
    from benchmarks.federation import pfl_app

    pfl_app.simulate(work)


ENGINES: dict[str, Callable[[Work], None]] = {
    "plain loop": plain,
    "in process": partial(ours, engine="inprocess", workers=0),
    "workers": lambda work: ours(work, "inprocess", work.actors),
    "our Ray": lambda work: ours(work, "ray", work.actors),
    "Flower": flower,
    "pfl": pfl,
}
"""The engines by name."""

NEEDS = {"our Ray": ("ray",), "Flower": ("ray",), "pfl": ("pfl", "prv_accountant")}
"""What must be installed for an engine."""


def missing(engine: str) -> str | None:
    """The library that an engine lacks here, if it does."""
    return next((name for name in NEEDS.get(engine, ()) if importlib.util.find_spec(name) is None), None)


if __name__ == "__main__":
    ENGINES[sys.argv[1]](Work.of_environment())
