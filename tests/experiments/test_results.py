"""What experiments/results claims is backed by the files beside it."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.analyses.landscape import barrier
from experiments.report.statistics import crossed_difference, paired_difference, points, spread
from experiments.table import updated
from tests.experiments.runs import table

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
DOCUMENT = RESULTS / "README.md"
COMPARISONS = sorted(path.parent for path in RESULTS.glob("*/summary.csv"))
BLOCK = re.compile(r"^<!-- table: .*? -->$.*?^<!-- end of table -->$", re.M | re.S)
WITHOUT_A_FILE = "## Without a file"


def test_the_tables_are_those_of_the_files():
    assert updated(DOCUMENT) == DOCUMENT.read_text()


def test_no_table_is_typed():
    assert not re.findall(r"^\s*\|", BLOCK.sub("", DOCUMENT.read_text()), re.M)


def of_several_encoders(path):
    """The numbers that ``analyses.encoders`` says of such a table."""
    rows = table(path)
    columns = len({row["seed"] for row in rows})
    lead = np.array([float(row["accuracy"]) - float(row["baseline_accuracy"]) for row in rows]).reshape(-1, columns)
    deviations = (f"{100 * spread(lead.mean(axis=axis)):.1f}" for axis in (1, 0))
    return f"{points(crossed_difference(lead))} {' '.join(deviations)}"


def of_gaps(path):
    """The numbers that ``analyses.gap`` says of such a table."""
    gaps = {}
    for row in table(path):
        gaps.setdefault(row["init"], []).append(float(row["centralised_accuracy"]) - float(row["federated_accuracy"]))
    baseline, *others = map(np.array, gaps.values())
    found = [paired_difference(gap, np.zeros_like(gap)) for gap in (baseline, *others)]
    return " ".join(map(points, [*found, *(paired_difference(gap, baseline) for gap in others)]))


def of_the_grid(data, *cells):
    """How the leads of the small grid's cells differ, each from those before it, paired by the seeds that all have."""
    found = [dict(leads(RESULTS / f"{data}-grid-{cell}")) for cell in cells]
    seeds = sorted(set.intersection(*map(set, found)))
    values = [np.array([cell[seed] for seed in seeds]) for cell in found]
    return " ".join(points(paired_difference(two, one)) for one, two in itertools.combinations(values, 2))


def of_noise():
    """How far noise is above random weights in the federation of the three encoders, paired by seed."""
    random = {row["seed"]: float(row["baseline_accuracy"]) for row in table(RESULTS / "cifar10-why" / "encoders.csv")}
    noise = {
        r["seed"]: float(r["baseline_accuracy"]) for r in table(RESULTS / "cifar10-sources-1280k" / "encoders.csv")
    }
    return points(paired_difference(*(np.array([one[seed] for seed in sorted(random)]) for one in (noise, random))))


def of_barriers(path):
    """The barriers of the test loss on the lines of a landscape."""
    lines = {}
    for row in table(path):
        if row["split"] == "test" and row["to"]:  # the plane's models lie on no line
            lines.setdefault((row["from"], row["to"]), []).append((float(row["at"]), float(row["loss"])))
    return " ".join(f"{barrier(*np.array(line).T):.2f}" for line in lines.values())


def test_the_encoders_beside_noise_are_those_that_were_federated():
    here, there = (table(RESULTS / name / "encoders.csv") for name in ("cifar10-sources-1280k", "cifar10-why"))
    last = {
        r["seed"]: r["test_accuracy"]
        for r in table(RESULTS / "cifar10-sources-1280k" / "rounds.csv")
        if r["test_accuracy"]
    }
    assert [(r["encoder"], r["seed"], r["accuracy"]) for r in here] == [
        (r["encoder"], r["seed"], r["accuracy"]) for r in there
    ]
    assert {row["seed"]: row["baseline_accuracy"] for row in here} == last


def leads(folder):
    """The second arm's final test accuracy less the first's, of each seed."""
    final = {}
    for row in table(folder / "rounds.csv"):
        if row["test_accuracy"]:
            final.setdefault(row["arm"], {})[row["seed"]] = float(row["test_accuracy"])
    baseline, other = final.values()
    return [(seed, other[seed] - baseline[seed]) for seed in baseline]


def test_every_number_with_decimals_in_the_text_stands_in_a_table_or_is_an_option():
    text = DOCUMENT.read_text()
    derived = [of_several_encoders(path) for path in RESULTS.glob("*/encoders.csv")]
    derived += [of_gaps(path) for path in RESULTS.glob("*/gap.csv")]
    derived.append(of_the_grid("cifar10", "iid", "dirichlet0.3", "dirichlet0.1"))
    derived.append(of_the_grid("cifar100", "iid", "dirichlet0.1"))
    derived.append(of_noise())
    derived += [of_barriers(path) for path in RESULTS.glob("*/landscape-*.csv")]
    tables = " ".join([*BLOCK.findall(text), *derived])
    prose, _, unbacked = BLOCK.sub("", text).partition(WITHOUT_A_FILE)
    prose = re.sub(
        r"```.*?```|`[^`]*`|Dirichlet\([^)]*\)|\]\([^)]*\)|\b(?:torch|flwr|lr|momentum) [\d.]+", "", prose, flags=re.S
    )
    for number in re.findall(r"\d+\.\d+%?", prose):
        if number != "1.28":  # million pairs
            assert number in tables, number
    assert not re.findall(r"\d+\.\d+ ?(?:%|points)", unbacked)


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_a_summary_follows_from_its_rounds(folder):
    accuracy, rounds = {}, {}
    personal = table(folder / "summary.csv")[0].get("measure")  # clients keep their heads
    measure = "client_accuracy_mean" if personal else "test_accuracy"
    for row in table(folder / "rounds.csv"):
        if row[measure]:
            accuracy.setdefault(row["arm"], {}).setdefault(int(row["seed"]), []).append(float(row[measure]))
            rounds.setdefault(row["arm"], []).append(int(row["round"]))
    arms = {arm: np.array([seeds[seed] for seed in sorted(seeds)]) for arm, seeds in accuracy.items()}
    assert len({tuple(sorted(seeds)) for seeds in accuracy.values()}) == 1
    baseline = next(iter(arms.values()))
    for row in table(folder / "summary.csv"):
        mine = arms[row["arm"]]
        final, best, mean = mine[:, -1], mine.max(axis=1), (mine[:, 1:] if mine.shape[1] > 1 else mine).mean(axis=1)
        expected = {
            "seeds": len(mine), "final_accuracy": final.mean(), "final_std": spread(final),
            "best_accuracy": best.mean(), "best_std": spread(best), "mean_over_rounds": mean.mean(),
        }  # fmt: skip
        if mine is not baseline:
            ends = {"": "mean", "_low": "low", "_high": "high"}
            # The mean is that of the rounds that both were evaluated after.
            both = min(mine.shape[1], baseline.shape[1])
            first = int(both > 1)
            assert rounds[row["arm"]][:both] == rounds[next(iter(arms))][:both]
            means = (values[:, first:both].mean(axis=1) for values in (mine, baseline))
            for name, pair in {"difference": (final, baseline[:, -1]), "mean_difference": tuple(means)}.items():
                found = paired_difference(*pair)
                expected |= {f"{name}{end}": getattr(found, attribute) for end, attribute in ends.items()}
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_the_tuned_rates_are_those_of_the_comparison():
    folder = RESULTS / "cifar10-tuned"
    rows = table(folder / "tuning.csv")
    chosen = {f"{row['init']}, lr {row['lr']}" for row in rows if row["chosen"] == "yes"}
    assert chosen == {row["arm"] for row in table(folder / "summary.csv")}
    for init in {row["init"] for row in rows}:
        mine = [row for row in rows if row["init"] == init]
        best = max(float(row["val_accuracy"]) for row in mine)
        (row,) = (row for row in mine if row["chosen"] == "yes")
        assert float(row["val_accuracy"]) == best
