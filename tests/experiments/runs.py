"""Run folders with invented histories, tiny runs, and what is read of their tables."""

import csv
import json
from pathlib import Path

import numpy as np

from experiments.report.runs import Run, read_run
from federated.config.run import RunConfig, to_yaml

TINY = [
    "--arch", "resnet8", "--rounds", "1", "--limit-train", "100", "--limit-test", "50", "--image-size", "16",
    "--clients", "2", "--partition", "iid",
]  # fmt: skip
"""Options of a run of a second."""


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_run(
    folder: Path, config: RunConfig, accuracies, at_clients=None, environment=None, tuned=None, data=""
) -> Run:
    """``at_clients``: mean, spread and worst tenth by round; ``tuned`` the same after fine-tuning.

    There are two clients, with the mean and the worst tenth for their accuracies.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    rows = [
        {
            "round": r,
            "test_accuracy": float(a),
            "test_loss": 2 - float(a),
            "val_accuracy": float(a),
            "val_loss": 1.0,
            "seconds": 2.0,
        }
        for r, a in enumerate(np.asarray(accuracies))
    ]
    for what, measured in (("client", at_clients or {}), ("fine_tuned", tuned or {})):
        for r, values in measured.items():
            names = (f"{what}_accuracy_{name}" for name in ("mean", "std", "worst_tenth"))
            rows[r].update({**dict(zip(names, values, strict=True)), f"{what}_accuracies": [values[0], values[2]]})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if data:
        (folder / "init.yaml").write_text(f"data_sha256: {data}\n")
    if environment:
        (folder / "environment.json").write_text(json.dumps(environment))
    return read_run(folder)
