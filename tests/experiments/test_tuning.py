"""A learning rate for each initialisation: which are tried, what is chosen, and what becomes of those that fail."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from experiments import compare
from experiments.compare import CompareConfig
from experiments.comparison import running, tuning
from federated.config.run import RunConfig
from federated.data.partition_file import save_partition
from federated.engines import start as engines
from federated.engines.pool import EngineFailed
from fps_pretrain.common.errors import UserError
from tests.experiments.runs import TINY, table, write_run

BASE = RunConfig(rounds=1)


def test_each_initialisation_goes_on_with_the_learning_rate_it_does_best_with(tmp_path):
    config = CompareConfig(inits=("random", "a/x.pt"), seeds=(3, 4), lrs=(0.1, 0.02), run=RunConfig(rounds=2))
    tried = list(config.candidates())
    assert [(run.init, run.lr, run.seed) for run in tried] == [
        ("random", 0.1, 3), ("random", 0.02, 3), ("a/x.pt", 0.1, 3), ("a/x.pt", 0.02, 3)
    ]  # fmt: skip
    accuracies = [0.3, 0.3, 0.5, 0.4]  # of two that are the same, the lower learning rate
    histories = [
        write_run(tmp_path / str(i), run, [0.6, 0.2, a])
        for i, (run, a) in enumerate(zip(tried, accuracies, strict=True))
    ]
    chosen = tuning.choose(histories)
    assert chosen == {"random": 0.02, "a/x.pt": 0.1}
    grid = list(config.runs(chosen))
    assert [run.lr for run in grid] == [0.02, 0.1, 0.02, 0.1]
    assert {run.output for run in grid[:2]} <= {run.output for run in tried}  # nothing is run twice
    with pytest.raises(UserError, match="--validation"):
        CompareConfig(lrs=(0.1,), run=RunConfig(validation=0.0))
    with pytest.raises(UserError, match="--lrs"):
        CompareConfig(lrs=(0.1, 0.1))


def tried(folder, rates, base=BASE, images=None):
    """Runs with a validation accuracy for each learning rate, and so many training images."""
    found = []
    for number, (rate, accuracy) in enumerate(rates.items()):
        run = write_run(folder / f"{number}", replace(base, lr=rate), [0.1, accuracy])
        if images:
            save_partition(run.folder / "partition.npz", [np.arange(images)])
        found.append(run)
    return found


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({0.01: 0.2, 0.05: 0.4, 0.1: 0.3}, []),
        ({0.01: 0.2, 0.1: 0.3}, ["random: lr 0.1 is the highest of --lrs; a higher one may be better."]),
        ({0.01: 0.4, 0.1: 0.3}, ["random: lr 0.01 is the lowest of --lrs; a lower one may be better."]),
        ({0.05: 0.4}, ["random: lr 0.05 is the only one of --lrs; another may be better."]),
        ({0.01: 0.2, 0.02: 0.4, 0.05: 0.4, 0.1: 0.3}, ["random: 0.02 and 0.05 tie; the lower one was taken."]),
        ({0.01: 0.1, 0.02: 0.4, 0.05: 0.4, 0.1: 0.4}, ["random: 0.02, 0.05 and 0.1 tie; the lowest one was taken."]),
    ],
)
def test_a_choice_that_means_little_is_said(tmp_path, rates, words):
    runs = tried(tmp_path, rates)
    assert tuning.cautions(runs, tuning.choose(runs)) == words


def test_rates_tie_within_an_arm(tmp_path):
    """What another arm comes to at the same rates is no tie."""
    runs = tried(tmp_path / "a", {0.01: 0.2, 0.05: 0.4, 0.1: 0.3})
    runs += tried(tmp_path / "b", {0.01: 0.4, 0.05: 0.5, 0.1: 0.5}, replace(BASE, init="x/b.pt"))
    assert tuning.cautions(runs, tuning.choose(runs)) == ["b: 0.05 and 0.1 tie; the lower one was taken."]


def test_a_rate_below_one_that_diverges_is_not_at_the_edge(tmp_path):
    runs = tried(tmp_path, {0.01: 0.2, 0.1: 0.3})
    assert tuning.cautions(runs, tuning.choose(runs), [replace(BASE, lr=1.0)]) == []


@pytest.mark.parametrize(("share", "advice"), [(0.02, "--validation 0.1"), (0.1, "a larger --validation")])
def test_few_validation_images_are_said(tmp_path, share, advice):
    images = round(28 / share) - 28
    runs = tried(tmp_path / "few", {0.01: 0.2, 0.05: 0.4, 0.1: 0.3}, replace(BASE, validation=share), images)
    said = tuning.cautions(runs, tuning.choose(runs))
    assert said == [f"The rates were chosen on 28 validation images: give {advice}."]
    many = tried(tmp_path / "many", {0.01: 0.2, 0.05: 0.4, 0.1: 0.3}, replace(BASE, validation=share), 20_000)
    assert tuning.cautions(many, tuning.choose(many)) == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_learning_rate_that_diverges_is_not_chosen(tmp_path, capsys, jobs):
    flags = [*TINY, "--threads", "1", "--validation", "0.2", "--inits", "random", "--seeds", "0"]
    flags += ["--jobs", jobs, "--output", str(tmp_path / "c")]
    assert compare.main(compare.parse([*flags, "--lrs", "1e30", "0.05"])) == 0
    rows = [(row["lr"], row["chosen"]) for row in table(tmp_path / "c" / "tuning.csv")]
    assert rows == [("0.05", "yes"), ("1e+30", "failed")]
    said = capsys.readouterr().err
    assert "not chosen, since it diverges: " in said
    assert "random-lr1e+30-s0" in said
    assert "exit code 4" not in said, "a code among processes, which no documentation has"
    assert compare.main(compare.parse([*flags, "--lrs", "1e30"])) == 3
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("random can be trained with none of --lrs: name lower ones")
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_learning_rate_is_not_dropped_for_what_may_not_come_again(tmp_path, capsys, monkeypatch, jobs):
    def no_memory(config, *args):
        raise EngineFailed("no worker is left: its process ended with exit code -9")

    popen = running.subprocess.Popen
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(engines, "start", no_memory)
    monkeypatch.setattr(running.subprocess, "Popen", lambda command, **options: popen(failing, **options))
    flags = [*TINY, "--threads", "1", "--validation", "0.2", "--inits", "random", "--seeds", "0"]
    flags += ["--lrs", "0.1", "0.05", "--jobs", jobs, "--output", str(tmp_path / "c")]
    assert compare.main(compare.parse(flags)) == 3
    said = capsys.readouterr().err
    assert "not chosen" not in said
    assert said.splitlines()[-1].endswith("the same command goes on from the last completed round")
    assert not (tmp_path / "c" / "tuning.csv").exists()


def test_what_federation_costs_at_one_learning_rate_is_said_to_be_so(tmp_path, capsys):
    flags = [*TINY, "--threads", "1", "--inits", "random", "--seeds", "0", "--output", str(tmp_path / "c")]
    for more, there in ([], False), (["--centralised"], True):
        assert compare.main(compare.parse([*flags, *more])) == 0
        page = (tmp_path / "c" / "index.html").read_text()
        assert ("All at --lr 0.05; --lrs finds each start&#39;s own." in page) == there
        assert ("All at --lr 0.05; --lrs finds each start's own.\n" in capsys.readouterr().err) == there


def test_a_comparison_with_learning_rates_to_choose_from(tmp_path, capsys):
    flags = [*TINY, "--threads", "1", "--validation", "0.2", "--inits", "random", "--seeds", "0", "1"]
    flags += ["--lrs", "0.000001", "0.05", "--output", str(tmp_path / "c")]
    assert compare.main(compare.parse(flags)) == 0
    rows = table(tmp_path / "c" / "tuning.csv")
    assert [(row["init"], row["lr"]) for row in rows] == [("random", "1e-06"), ("random", "0.05")]
    (chosen,) = (row for row in rows if row["chosen"] == "yes")
    assert chosen["val_accuracy"] == max(row["val_accuracy"] for row in rows)
    folders = {path.name for path in (tmp_path / "c" / "runs").iterdir()}
    assert folders == {"random-lr1e-06-s0", "random-lr0.05-s0", f"random-lr{chosen['lr']}-s1"}
    said = capsys.readouterr().err
    assert f"random: lr {chosen['lr']}, validation accuracy" in said
    few = "The rates were chosen on 20 validation images: give a larger --validation."
    assert said.splitlines().count(few) == 2  # when they are chosen, and beside what came out
    assert few in (tmp_path / "c" / "index.html").read_text()
