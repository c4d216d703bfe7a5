"""A learning rate for each initialisation: which are tried, what is chosen, and what becomes of those that fail."""

import sys

import pytest

from experiments import compare
from experiments.compare import CompareConfig
from experiments.comparison import running
from federated.config.run import RunConfig
from federated.engines import start as engines
from federated.engines.pool import EngineFailed
from fps_pretrain.common.errors import UserError
from tests.experiments.runs import TINY, table, write_run


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
    chosen = compare.choose(histories)
    assert chosen == {"random": 0.02, "a/x.pt": 0.1}
    grid = list(config.runs(chosen))
    assert [run.lr for run in grid] == [0.02, 0.1, 0.02, 0.1]
    assert {run.output for run in grid[:2]} <= {run.output for run in tried}  # nothing is run twice
    with pytest.raises(UserError, match="--validation"):
        CompareConfig(lrs=(0.1,), run=RunConfig(validation=0.0))
    with pytest.raises(UserError, match="--lrs"):
        CompareConfig(lrs=(0.1, 0.1))


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
    assert f"random: lr {chosen['lr']}, validation accuracy" in capsys.readouterr().err
