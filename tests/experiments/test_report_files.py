"""What a report reads of run folders and writes as CSV: each number under its name, in as many cells as columns."""

import csv
import io
import json
from dataclasses import replace

import pytest

from experiments.report.arms import group
from experiments.report.csv_files import clients_csv, rounds_csv, summary_csv
from experiments.report.runs import read_run
from experiments.report.statistics import paired_difference
from experiments.report.summary import summarise
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError
from tests.experiments.runs import write_run

BASE = RunConfig(rounds=2, clients=4, partition="iid", local_epochs=1)


def rows_of(text):
    """The rows of a table whose rows all have as many cells as its header."""
    assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
    return list(csv.DictReader(io.StringIO(text)))


def cells(row, *names):
    return [float(row[name]) for name in names]


def test_each_number_of_an_arm_stands_under_its_name(tmp_path):
    accuracies = {"random": ([0.1, 0.2, 0.4], [0.1, 0.3, 0.2]), "x/a.pt": ([0.9, 0.5, 0.6], [0.7, 0.3, 0.6])}
    runs = [
        write_run(tmp_path / f"{init[0]}{seed}", replace(BASE, init=init, seed=seed), values)
        for init, seeds in accuracies.items()
        for seed, values in enumerate(seeds)
    ]
    random, warm = rows_of(summary_csv(summarise(group(runs), (0.3, 0.8))))
    assert cells(random, "final_accuracy", "best_accuracy", "mean_over_rounds") == [0.3, 0.35, 0.275]
    assert (random["rounds_to_0.300"], random["rounds_to_0.800"], warm["rounds_to_0.800"]) == ("2 1", "- -", "0 -")
    assert [random[name] for name in random if "difference" in name] == [""] * 6
    for name, ours, theirs in (("difference", (0.6, 0.6), (0.4, 0.2)), ("mean_difference", (0.55, 0.45), (0.3, 0.25))):
        expected = paired_difference(ours, theirs)
        assert cells(warm, name, f"{name}_low", f"{name}_high") == pytest.approx(expected[:3], abs=1e-5)
    assert (warm["seeds"], float(warm["seconds_per_round"])) == ("2", 2.0)
    assert "client_mean" not in warm
    assert "measure" not in warm


def test_what_was_not_measured_is_empty_beside_what_was(tmp_path):
    at_clients, tuned = {2: (0.5, 0.1, 0.3)}, {2: (0.7, 0.1, 0.6)}
    runs = [
        write_run(tmp_path / "a", replace(BASE, init="x/a.pt", fine_tune_epochs=1), [0.1, 0.2, 0.3], at_clients,
                  tuned=tuned),
        write_run(tmp_path / "b", replace(BASE, init="x/b.pt"), [0.1, 0.2, 0.4], at_clients),
        write_run(tmp_path / "c", replace(BASE, init="x/c.pt"), [0.1, 0.2, 0.5]),
    ]  # fmt: skip
    both, clients, neither = rows_of(summary_csv(summarise(group(runs), (0.3,))))
    measured = {"client_mean": 0.5, "client_std": 0.1, "client_worst_tenth": 0.3}
    assert cells(both, *measured) == cells(clients, *measured) == list(measured.values())
    assert cells(both, "fine_tuned_mean", "fine_tuned_worst_tenth", "fine_tuned_gain") == [0.7, 0.6, 0.25]
    empty = {name for name in both if name.startswith(("client_", "fine_tuned_"))}
    assert [neither[name] for name in empty] == [""] * 13
    assert [clients[name] for name in empty if name.startswith("fine_tuned_")] == [""] * 6


def test_clients_are_shown_as_they_were_when_last_measured(tmp_path):
    measured = {0: (0.1, 0.0, 0.05), 1: (0.4, 0.1, 0.3)}
    run = write_run(tmp_path / "run", BASE, [0.1, 0.2, 0.3], measured, tuned={1: (0.6, 0.1, 0.5)})
    assert rows_of(clients_csv(group([run]))) == [
        {"arm": "random", "seed": "0", "round": "1", "client": client, "accuracy": before, "fine_tuned_accuracy": after}
        for client, before, after in (("0", "0.4", "0.6"), ("1", "0.3", "0.5"))
    ]
    rows = rows_of(rounds_csv(group([run])))
    assert [row["client_accuracy_mean"] for row in rows] == ["0.1", "0.4", ""]
    assert [row["test_accuracy"] for row in rows] == ["0.1", "0.2", "0.3"]


def test_a_history_that_is_not_of_its_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged in line 4: round 3 is beyond the last, 2"):
        write_run(tmp_path / "longer", BASE, [0.1, 0.2, 0.3, 0.4])
    run = write_run(tmp_path / "run", BASE, [0.1, 0.2, 0.3])
    for change, why in (({"round": 2}, "it is round 2, not 1"), ({"seconds": None}, "it has no seconds")):
        rows = [{**row, **(change if number == 1 else {})} for number, row in enumerate(run.history)]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=rf"metrics\.jsonl is damaged in line 2: {why}"):
            read_run(run.folder)
