"""How much pre-training does it take? ``python -m experiments.curve runs/*/encoder-*.pt --dataset cifar10``.

Accuracy against the pairs an encoder has seen: nearest neighbours and a linear classifier on frozen features, and a
short federation, with random weights as the line to beat. All on the validation split; the test set is not looked at.
What is measured already is read from the table, so that encoders can be added and an interrupted call goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments.report.curve_picture import draw
from experiments.report.curve_values import (
    RANDOM,
    TITLES,
    Measure,
    Value,
    at_best_rates,
    read_table,
    summary,
    write_table,
)
from federated.config import file as config_file
from federated.config.run import RunConfig, to_yaml
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_text_atomically

PROG = "experiments.curve"
TABLE, PICTURE, SETTINGS = "curve.csv", "curve.png", "settings.yaml"


@dataclass(frozen=True)
class CurveConfig:
    """Accuracy on validation images against pairs seen. Every option of run_fl.py applies to the federations."""

    encoders: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Checkpoints of run_pretrain.py, as PATH or LABEL=PATH; without a label, the method is it. Those of one label make
    a curve."""
    measures: tuple[Measure, ...] = ("knn", "linear", "federation")
    """What to measure."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the federations, and of the random weights."""
    lrs: tuple[float, ...] = ()
    """Learning rates of the federations: every encoder, and random weights, count with the rate that does best on
    average over the seeds; none for --lr alone."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: RunConfig(validation=0.5))
    """Options of run_fl.py."""
    config: Path | None = None
    """YAML file of options, such as a recipe of experiments.compare; flags override it."""

    def __post_init__(self) -> None:
        """Check what the runs' own configurations do not.

        Raises:
            UserError: nothing to measure, no validation split, or a flag that the others replace.
        """
        if self.run.init != RunConfig.init or self.run.seed != RunConfig.seed:
            raise UserError("a curve takes checkpoints and --seeds, not --init and --seed")
        for flag, values in (("--seeds", self.seeds), ("--measures", self.measures), ("--lrs", self.rates)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{flag} must name one or more different values")
        for rate in self.rates:
            replace(self.run, lr=rate)
        if not self.run.validation:
            raise UserError("--validation must be above 0: the validation split is what is classified")

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the federations: --lrs, or --lr."""
        return self.lrs or (self.run.lr,)

    @property
    def folder(self) -> Path:
        """Where table, picture and runs are: --output, or runs/curve."""
        return self.run.output if self.run.output is not None else Path("runs/curve")


@dataclass(frozen=True)
class Candidate:
    """An encoder: ``init`` as run_fl.py takes it, the label of its curve, and how many pairs it has seen."""

    label: str
    pairs: int
    init: str
    sha256: str


def candidates(encoders: Sequence[str]) -> list[Candidate]:
    """The checkpoints with what they say of their pre-training.

    Raises:
        UserError: a file is no checkpoint of run_pretrain.py, or one is named twice.
    """
    from fps_pretrain.models.checkpoint import digest, read_file

    found = []
    for text in encoders:
        label, _, path = text.rpartition("=")
        payload = read_file(Path(path))
        provenance = payload.get("provenance")
        if not isinstance(provenance, dict) or not isinstance(provenance.get("pairs_seen"), int):
            raise UserError(f"{path} does not say how many pairs it has seen: name checkpoints of run_pretrain.py")
        name = label or str(provenance.get("method", "unknown"))
        found.append(Candidate(name, provenance["pairs_seen"], path, digest(payload["state_dict"])))
    if len({c.sha256 for c in found}) < len(found):
        raise UserError("two of the checkpoints hold the same weights: name each once")
    return found


def _frozen(run: RunConfig, measures: Sequence[str], table: Any) -> dict[str, float]:
    """Accuracies of classifiers on the frozen features of the encoder that ``run`` starts from, by measure."""
    from federated.server.initialise import initial_encoder
    from fps_pretrain.probing.probe import extract_features, knn_accuracy, linear_accuracy

    encoder = initial_encoder(run)[0]
    bank, queries = (extract_features(encoder, part.images) for part in (table.train, table.validation))
    classifiers = {"knn": knn_accuracy, "linear": linear_accuracy}
    return {m: classifiers[m](bank, table.train.labels, queries, table.validation.labels) for m in measures}


def _federated(run: RunConfig) -> dict[str, float]:
    """Validation accuracy at the end of a federation and on average over its rounds, by measure."""
    from federated.server import run as rounds

    history = rounds.run(run, quiet=True).history
    accuracies = [row["val_accuracy"] for row in history if row["round"] and row.get("val_accuracy") is not None]
    return {"federation": accuracies[-1], "federation_mean": float(np.mean(accuracies))}


@dataclass(frozen=True)
class _Work:
    """What is measured in one go, and then written: a federation, or the frozen features' measures."""

    candidate: Candidate
    seed: int
    lr: float
    measures: tuple[str, ...]


def _work(config: CurveConfig, encoders: Sequence[Candidate], values: Sequence[Value]) -> list[_Work]:
    """What is asked for and not among ``values``: first frozen features, then federations, all encoders at a seed."""
    have = {value.key for value in values}
    random = Candidate(RANDOM, 0, RANDOM, RANDOM)
    frozen = [(random, seed) for seed in config.seeds] + [(candidate, -1) for candidate in encoders]
    federations = [(c, seed, lr) for seed in config.seeds for c in (random, *encoders) for lr in config.rates]
    found = []
    for candidate, seed in frozen:
        wanted = [measure for measure in config.measures if measure != "federation"]
        measures = tuple(measure for measure in wanted if (candidate.sha256, measure, seed, 0.0) not in have)
        if measures:
            found.append(_Work(candidate, seed, 0.0, measures))
    if "federation" in config.measures:
        for candidate, seed, lr in federations:
            if (candidate.sha256, "federation", seed, lr) not in have:
                found.append(_Work(candidate, seed, lr, ("federation",)))
    return found


def main(config: CurveConfig) -> int:
    """Measure what is missing, then write table and picture; returns the exit code."""
    import torch

    from federated.data import sets as data

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    encoders = candidates(config.encoders)
    folder = config.folder
    values = read_table(folder / TABLE)
    settings = to_yaml(replace(config.run, output=None, threads=None, data_dir=None, lr=RunConfig.lr))
    if values and (not (folder / SETTINGS).is_file() or (folder / SETTINGS).read_text() != settings):
        raise UserError(f"{folder} was measured with other options (its {SETTINGS}): choose another --output")
    table = data.load(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / SETTINGS, settings)

    works = _work(config, encoders, values)
    for number, work in enumerate(works, 1):
        candidate = work.candidate
        run = replace(config.run, init=candidate.init, seed=max(work.seed, 0))
        if work.lr:
            name = f"{candidate.label}-{candidate.sha256[:8]}-lr{work.lr:g}-s{work.seed}"
            output = folder / "runs" / name.replace("/", "-").replace(" ", "-")
            accuracies = _federated(replace(run, lr=work.lr, output=output))
        else:
            accuracies = _frozen(run, work.measures, table)
        about = (candidate.label, candidate.pairs, Path(candidate.init).name, candidate.sha256)
        for measure, accuracy in accuracies.items():
            values.append(Value(*about, measure, work.seed, work.lr, accuracy))
            at = "".join((f", seed {work.seed}" if work.seed >= 0 else "", f", lr {work.lr:g}" if work.lr else ""))
            print(
                f"[{number}/{len(works)}] {candidate.label}, {candidate.pairs:,} pairs{at}: "
                f"{TITLES[measure]} {accuracy:.1%}",
                file=sys.stderr,
            )
        write_table(folder / TABLE, values)
    (folder / PICTURE).write_bytes(draw(at_best_rates(values)))
    print("\n".join(summary(at_best_rates(values))))
    print(f"wrote {folder / TABLE} and {folder / PICTURE}", file=sys.stderr)
    return 0


def parse(arguments: list[str]) -> CurveConfig:
    """The curve in these arguments; leaves with one line and exit code 2 if they are wrong."""
    lists = ("measures", "seeds", "lrs", "inits", "targets")
    left_out = ("init", "seed", "inits", "targets")
    return config_file.parse(CurveConfig, PROG, arguments, lists=lists, left_out=left_out)


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, parse(sys.argv[1:])))
