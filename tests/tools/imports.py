"""Imports all that the repository's programs import, for the process that ``tests.tools.warm`` forks."""

# ruff: noqa: F401
import os

os.environ["OMP_NUM_THREADS"] = "1"

import gc

import flwr_datasets.partitioner
import matplotlib.figure
import sklearn.datasets
import sklearn.model_selection

import experiments.compare
import federated.engines.workers
import federated.results.evaluation
import federated.server.rounds
import federated.server.run
import fps_pretrain.methods.moco
import fps_pretrain.methods.simsiam
import fps_pretrain.pairs.gallery
import fps_pretrain.training.run
import run_fl
import run_pretrain
from fps_pretrain.common import cli

# What imports wait for until a command line is read.
run_fl.parse(["--rounds", "3"])
cli.parse(run_pretrain.PretrainConfig, "run_pretrain.py", ["--epochs", "3"])

gc.collect()
gc.freeze()  # A collection in a fork would copy all memory.
