"""Run folders with invented histories, for tests of what is made of them."""

import json
from pathlib import Path

import numpy as np

from experiments.report.runs import Run, read_run
from federated.config.run import RunConfig, to_yaml


def write_run(folder: Path, config: RunConfig, accuracies, at_clients=None, environment=None) -> Run:
    """``at_clients``: mean, spread and worst tenth by round."""
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
    for r, values in (at_clients or {}).items():
        rows[r].update({f"client_accuracy_{n}": v for n, v in zip(("mean", "std", "worst_tenth"), values, strict=True)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if environment:
        (folder / "environment.json").write_text(json.dumps(environment))
    return read_run(folder)
