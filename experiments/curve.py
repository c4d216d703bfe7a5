"""How much pre-training does it take? ``python -m experiments.curve runs/*/encoder-*.pt --dataset cifar10``.

Accuracy against the pairs an encoder has seen: nearest neighbours and a linear classifier on frozen features, and a
short federation, with random weights as the line to beat. All on the validation split; the test set is not looked at.
What is measured already is read from the table, so that encoders can be added and an interrupted call goes on.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from experiments.report import csv_text
from federated import config_file
from federated.config import RunConfig, to_yaml
from fps_pretrain import cli
from fps_pretrain.errors import UserError
from fps_pretrain.files import write_text_atomically

PROG = "experiments.curve"
TABLE, PICTURE, SETTINGS = "curve.csv", "curve.png", "settings.yaml"
RANDOM = "random"

Measure = Literal["knn", "linear", "federation"]

TITLES = {
    "knn": "nearest neighbours",
    "linear": "linear classifier",
    "federation": "federation, last round",
    "federation_mean": "federation, mean over rounds",
}


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


@dataclass(frozen=True)
class Value:
    """One measured accuracy in [0, 1].

    ``seed`` is that of the federation, or of random weights, and else -1; ``lr`` that of the federation, and else 0.
    """

    label: str
    pairs: int
    checkpoint: str
    sha256: str
    measure: str
    seed: int
    lr: float
    accuracy: float

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What it is the value of."""
        return self.sha256, self.measure, self.seed, self.lr


def candidates(encoders: Sequence[str]) -> list[Candidate]:
    """The checkpoints with what they say of their pre-training.

    Raises:
        UserError: a file is no checkpoint of run_pretrain.py, or one is named twice.
    """
    from fps_pretrain.checkpoint import digest, read_file

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


def read_table(path: Path) -> list[Value]:
    """The values measured so far; none where there is no table.

    Raises:
        UserError: the file is no such table.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [
                Value(
                    row["label"], int(row["pairs"]), row["checkpoint"], row["sha256"], row["measure"],
                    int(row["seed"]), float(row["lr"]), float(row["accuracy"]),
                )
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a table of {PROG}: choose another --output") from error


def write_table(path: Path, values: Sequence[Value]) -> None:
    """Write all values, one a line."""
    rows = [(v.label, v.pairs, v.checkpoint, v.sha256, v.measure, v.seed, v.lr, f"{v.accuracy:.4f}") for v in values]
    write_text_atomically(path, csv_text(Value.__dataclass_fields__, rows))


def at_best_rates(values: Sequence[Value]) -> list[Value]:
    """The values, of federations only those at the learning rate with the encoder's best mean over seeds at the end."""
    ends: dict[str, dict[float, list[float]]] = {}
    for value in values:
        if value.measure == "federation":
            ends.setdefault(value.sha256, {}).setdefault(value.lr, []).append(value.accuracy)
    best = {sha256: max(sorted(rates), key=lambda lr: np.mean(rates[lr])) for sha256, rates in ends.items()}
    return [value for value in values if not value.lr or value.lr == best[value.sha256]]


def means(values: Sequence[Value], label: str, measure: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Budgets in pairs, and the mean, lowest and highest accuracy at each, over checkpoints and seeds."""
    mine: dict[int, list[float]] = {}
    for value in values:
        if value.label == label and value.measure == measure:
            mine.setdefault(value.pairs, []).append(value.accuracy)
    budgets = sorted(mine)
    stacked = [np.array(mine[budget]) for budget in budgets]
    return (
        np.array(budgets),
        np.array([a.mean() for a in stacked]),
        np.array([a.min() for a in stacked]),
        np.array([a.max() for a in stacked]),
    )


def crossing(budgets: np.ndarray, accuracies: np.ndarray, baseline: float) -> float | None:
    """The number of pairs from which on a curve stays above ``baseline``, or None if it ends below.

    Between two budgets the curve is taken as straight over the logarithm of pairs; where it lies above from its first
    budget on, that is the answer.
    """
    below = np.flatnonzero(np.asarray(accuracies) <= baseline)
    if not len(below):
        return float(budgets[0])
    last = below[-1]
    if last == len(budgets) - 1:
        return None
    share = (baseline - accuracies[last]) / (accuracies[last + 1] - accuracies[last])
    low, high = math.log(budgets[last]), math.log(budgets[last + 1])
    return math.exp(low + share * (high - low))


def draw(values: Sequence[Value]) -> bytes:
    """A panel for each measure: the mean at each budget, a band from lowest to highest, random weights as a line."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

    measures = [measure for measure in TITLES if any(value.measure == measure for value in values)]
    labels = sorted({value.label for value in values} - {RANDOM})
    palette = colormaps["tab10" if len(labels) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / 2)
    figure = Figure(figsize=(2.6 + 4.2 * columns, 0.4 + 3.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes in grid[len(measures) :]:
        axes.set_axis_off()
    for position, (axes, measure) in enumerate(zip(grid, measures, strict=False)):
        for label, colour in zip(labels, itertools.cycle(palette)):
            budgets, middle, low, high = means(values, label, measure)
            if len(budgets):
                axes.plot(budgets, middle, marker="o", markersize=4, color=colour, label=label)
                axes.fill_between(budgets, low, high, color=colour, alpha=0.15, linewidth=0)
        _, middle, low, high = means(values, RANDOM, measure)
        if len(middle):
            axes.axhline(middle[0], color="0.3", linestyle="--", label="random weights")
            axes.axhspan(low[0], high[0], color="0.5", alpha=0.15, linewidth=0)
        if labels:
            axes.set_xscale("log")
            axes.xaxis.set(major_locator=LogLocator(subs=(1, 3)), minor_locator=NullLocator())
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(title=TITLES[measure], ylabel="" if position % 2 else "validation accuracy")
        axes.tick_params(labelbottom=True)
        if position >= len(measures) - columns:
            axes.set_xlabel("pairs seen")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def summary(values: Sequence[Value]) -> Iterator[str]:
    """A line for each curve and measure: where it ends, and from how many pairs on it is above random weights."""
    for measure, title in TITLES.items():
        _, baseline, _, _ = means(values, RANDOM, measure)
        if not len(baseline):
            continue
        yield f"{title}: random weights {baseline[0]:.1%}"
        for label in sorted({value.label for value in values} - {RANDOM}):
            budgets, middle, _, _ = means(values, label, measure)
            if not len(budgets):
                continue
            where = crossing(budgets, middle, float(baseline[0]))
            verdict = "below random weights" if where is None else f"above random weights from {where:,.0f} pairs on"
            if where == budgets[0]:
                verdict = "above random weights from the first on"
            yield f"  {label}: {middle[-1]:.1%} after {budgets[-1]:,} pairs, {verdict}"


def _frozen(run: RunConfig, measures: Sequence[str], table: Any) -> dict[str, float]:
    """Accuracies of classifiers on the frozen features of the encoder that ``run`` starts from, by measure."""
    from federated.initialise import initial_encoder
    from fps_pretrain.probe import extract_features, knn_accuracy, linear_accuracy

    encoder = initial_encoder(run)[0]
    bank, queries = (extract_features(encoder, part.images) for part in (table.train, table.validation))
    classifiers = {"knn": knn_accuracy, "linear": linear_accuracy}
    return {m: classifiers[m](bank, table.train.labels, queries, table.validation.labels) for m in measures}


def _federated(run: RunConfig) -> dict[str, float]:
    """Validation accuracy at the end of a federation and on average over its rounds, by measure."""
    from federated import rounds

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

    from federated import data

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
