"""Tiny runs, and what can be seen of them."""

import csv

import torch

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models import checkpoint
from fps_pretrain.probing import quality
from fps_pretrain.training import run as train

TINY = {
    "arch": "resnet8",
    "size": 16, "epochs": 2, "pairs_per_epoch": 24, "batch_size": 8, "workers": 0, "log_every": 1, "precision": "32",
}  # fmt: skip


def run(folder, **options):
    """Train in ``folder``; everything observable about the run."""
    values = {"output": folder / "out.pt", "run_dir": folder / "run"} | TINY | options
    config = PretrainConfig(**values)
    before = torch.get_num_threads()
    try:
        train.train(config)
        threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    content = checkpoint.read_file(config.output)
    with next((config.run_dir / "csv").rglob("metrics.csv")).open() as file:
        log = list(csv.DictReader(file))
    return {
        "digest": content["provenance"]["digest"],
        "recorded": content["provenance"]["config"],
        "threads": threads,
        "lines": len(log),
        "log": log,
        "files": sorted(p.name for p in [*folder.iterdir(), *config.run_dir.iterdir()]),
        "probes": (config.run_dir / "probes" / "version_0" / "metrics.csv").read_text().splitlines(),
    }


def without_probe(patch):
    """A probe and its page take seconds; most of these tests look elsewhere."""

    def measure(self, encoder):
        linear = {"linear_accuracy": 0.25} if self.config.linear_probe else {}
        return {"knn_accuracy": 0.5, "pair_retrieval": 0.25, **linear}, None

    patch.setattr(quality.QualityProbe, "measure", measure)
    patch.setattr(quality, "write_page", lambda *arguments: None)
