"""Comparisons and reports, as a library on written histories and from the outside on tiny runs."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest

from experiments import compare, curve
from experiments.compare import CompareConfig
from experiments.report import page as report
from experiments.report.arms import centralise, group
from experiments.report.runs import read_run
from federated.config.run import RunConfig, to_yaml
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.conftest import assert_refused
from tests.experiments.runs import TINY, table, write_run


@pytest.fixture
def runs(tmp_path):
    base = RunConfig(rounds=4)
    made = []
    for seed in (0, 1, 2):
        made.append(
            write_run(tmp_path / f"r{seed}", replace(base, seed=seed), np.array([0.1, 0.2, 0.4, 0.3, 0.5]) + seed / 100)
        )
        made.append(
            write_run(
                tmp_path / f"f{seed}",
                replace(base, seed=seed, init="x/fps_r20.pt"),
                np.array([0.1, 0.5, 0.6, 0.6, 0.6]) + seed / 50,
            )
        )
    return made


def test_numbers_on_the_page(runs, tmp_path):
    summaries = report.write(runs, tmp_path / "out", (0.45, 0.9), "A <title>", "the command")
    random, fps = summaries
    assert (random.arm, fps.arm) == ("random", "fps_r20")
    assert random.final == pytest.approx(0.51)
    assert random.final_std == pytest.approx(0.01)
    assert fps.best == pytest.approx(0.62)
    assert random.mean_over_rounds == pytest.approx(0.36)
    assert random.rounds_to == {0.45: [4, 4, 4], 0.9: [None] * 3}
    assert fps.rounds_to[0.45] == [1, 1, 1]
    assert random.difference is None
    assert fps.difference is not None
    assert fps.difference.mean == pytest.approx(0.11)
    assert fps.difference.low < 0.11 < fps.difference.high
    rows = table(tmp_path / "out" / "summary.csv")
    assert [row["arm"] for row in rows] == ["random", "fps_r20"]
    assert float(rows[1]["difference"]) == pytest.approx(0.11)
    assert rows[1]["rounds_to_0.450"] == "1 1 1"
    assert len(table(tmp_path / "out" / "rounds.csv")) == 6 * 5
    page = (tmp_path / "out" / "index.html").read_text()
    for words in ("A &lt;title&gt;", "the command", "51.0%", "+11.0", "data:image/png;base64,"):
        assert words in page
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_at_the_clients(tmp_path):
    base = RunConfig(rounds=2, per_client_every=2)
    made = []
    for seed in (0, 1):
        for init, worst in (("random", 0.1), ("x/fps_r20.pt", 0.2 + seed / 10)):
            at_clients = {0: (0.1, 0.0, 0.1), 2: (0.4 + seed / 10, 0.15, worst)}
            config = replace(base, seed=seed, init=init)
            made.append(write_run(tmp_path / f"{init[-1]}{seed}", config, [0.1, 0.3, 0.4], at_clients))
    random, fps = report.write(made, tmp_path / "out", (), "t", "c")
    assert random.clients.difference is None
    assert (fps.clients.mean, fps.clients.spread, fps.clients.worst_tenth) == pytest.approx((0.45, 0.15, 0.25))
    assert fps.clients.worst_tenth_std == pytest.approx(0.1 / 2**0.5)
    assert fps.clients.difference.mean == pytest.approx(0.15)
    page = (tmp_path / "out" / "index.html").read_text()
    for words in ("Accuracy at the clients", "25.0% ± 7.1%", "+15.0 ["):
        assert words in page
    rows = table(tmp_path / "out" / "summary.csv")
    assert [float(row["client_worst_tenth"]) for row in rows] == pytest.approx([0.1, 0.25])
    assert rows[0]["client_worst_tenth_difference"] == ""
    assert float(rows[1]["client_worst_tenth_difference"]) == pytest.approx(0.15)
    measured = [row["client_accuracy_worst_tenth"] for row in table(tmp_path / "out" / "rounds.csv")]
    assert measured[:6] == ["0.1", "", "0.1", "0.1", "", "0.1"]


def test_clients_are_left_out_where_nobody_measured_them(runs, tmp_path):
    report.write(runs, tmp_path / "out", (), "t", "c")
    assert "at the clients" not in (tmp_path / "out" / "index.html").read_text()
    for name in ("summary.csv", "rounds.csv"):
        assert not [column for column in table(tmp_path / "out" / name)[0] if "client" in column]


def test_an_arm_that_was_not_measured_at_the_clients_stands_beside_one_that_was(runs, tmp_path):
    other = write_run(tmp_path / "m", RunConfig(rounds=4, per_client_every=4), [0.1] * 5, {0: (0.1, 0, 0.1)})
    without, measured = report.write([*runs[::2], other], tmp_path / "out", (), "t", "c")
    assert without.clients is None
    assert measured.clients.difference is None
    assert table(tmp_path / "out" / "summary.csv")[0]["client_mean"] == ""


def test_default_targets_are_shares_of_the_baselines_best(runs, tmp_path):
    random, _ = report.write(runs, tmp_path / "out", (), "t", "c")
    assert list(random.rounds_to) == pytest.approx([0.255, 0.383, 0.459], abs=1e-3)


def test_one_seed_has_no_interval_and_a_single_arm_is_a_report(runs, tmp_path):
    single = report.write(runs[:2], tmp_path / "two", (), "t", "c")
    assert np.isnan(single[0].final_std)
    assert np.isnan(single[1].difference.low)
    page = re.sub('base64,[^"]*', "", (tmp_path / "two" / "index.html").read_text())
    assert "nan" not in page.lower()
    assert len(report.write(runs[:1], tmp_path / "one", (), "t", "c")) == 1


def test_arms_are_labelled_by_what_differs(tmp_path):
    base = RunConfig(rounds=1)
    made = [
        write_run(tmp_path / "a", base, [0.1, 0.2]),
        write_run(tmp_path / "b", replace(base, alpha=0.1), [0.1, 0.2]),
        write_run(tmp_path / "c", replace(base, alpha=0.1, engine="ray", threads=1, seed=5), [0.1, 0.2]),
    ]
    arms = group(made)
    assert [(arm.label, arm.seeds) for arm in arms] == [("alpha 0.3", [0]), ("alpha 0.1", [0, 5])]


def test_a_centralised_arm_is_called_so(tmp_path):
    federated = [RunConfig(rounds=2, lr=0.1), RunConfig(rounds=2, lr=0.2, init="x/fps_r20.pt")]
    configs = [*federated, *(centralise(config) for config in federated)]
    made = [write_run(tmp_path / str(number), config, [0.1, 0.2, 0.3]) for number, config in enumerate(configs)]
    labels = [arm.label for arm in group(made)]
    assert labels[:2] == ["random, lr 0.1", "fps_r20, lr 0.2"]
    assert labels[2:] == [f"{label}, centralised" for label in labels[:2]]
    page = report.write(made, tmp_path / "page", (), "t", "c")
    assert [summary.centralised for summary in page] == [False, False, True, True]
    headline = re.findall(r'class="headline">(.*?)<', (tmp_path / "page" / "index.html").read_text())
    assert len(headline) == 1
    alone = write_run(tmp_path / "alone", configs[2], [0.1, 0.2, 0.3])
    assert [arm.label for arm in group([alone])] == ["random"]


def test_runs_of_different_length_and_other_folders_are_refused(tmp_path):
    base = RunConfig(rounds=4)
    made = [write_run(tmp_path / "a", base, [0.1, 0.2]), write_run(tmp_path / "b", replace(base, seed=1), [0.1])]
    with pytest.raises(UserError, match="different rounds"):
        group(made)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run folder"):
        read_run(tmp_path / "empty")


def test_the_grid_of_runs():
    config = CompareConfig(inits=("random", "a/x.pt", "b/x.pt"), seeds=(3, 4), run=RunConfig(rounds=2))
    grid = list(config.runs({}))
    assert len(grid) == len({run.output for run in grid}) == 6
    assert [(run.init, run.seed) for run in grid[:4]] == [("random", 3), ("a/x.pt", 3), ("b/x.pt", 3), ("random", 4)]
    assert all(run.rounds == 2 for run in grid)


def test_options_from_a_file(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text("inits: [random, a/x.pt]\nseeds: [3, 4]\npartition: shards\nshards_per_client: 3\nrounds: 7\n")
    config = compare.parse(["--config", str(path), "--rounds", "5", "--seeds", "9"])
    assert (config.inits, config.seeds, config.targets) == (("random", "a/x.pt"), (9,), ())
    assert config.run == RunConfig(partition="shards", shards_per_client=3, rounds=5)


def options_of_a_run(path, run):
    """A run's options in a file, but for its start and its seed, which a comparison takes in another form."""
    lines = to_yaml(run).splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("init:", "seed:"))))


def test_options_from_a_run_are_compared_over_inits_and_seeds(tmp_path):
    run = RunConfig(rounds=7, strategy="fedprox", prox_mu=0.5)
    options_of_a_run(tmp_path / "run.yaml", run)
    config = compare.parse([f"--config={tmp_path / 'run.yaml'}"])
    assert config.run == run
    assert config.seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("parse", "option", "words"),
    [
        (compare.parse, "init: random", "has init: the program takes --inits instead"),
        (compare.parse, "seed: 0", "has seed: the program takes --seeds instead"),
        (curve.parse, "seed: 3", "has seed: the program takes --seeds instead"),
    ],
)
def test_a_file_with_what_would_do_nothing_is_refused(parse, option, words, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(f"rounds: 3\n{option}\n")
    with pytest.raises(SystemExit) as exit_:
        parse(["--config", str(tmp_path / "run.yaml")])
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_the_config_of_a_run_serves_with_other_starts_and_seeds(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(RunConfig(rounds=7, init="fps_r20", seed=4)))
    config = compare.parse(
        ["--config", str(tmp_path / "config.yaml"), "--inits", "random", "fps_r20", "--seeds", "1", "2"]
    )
    assert (config.inits, config.seeds, config.run) == (("random", "fps_r20"), (1, 2), RunConfig(rounds=7))


def test_a_comparison_stays_out_of_a_runs_folder(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(RunConfig(output=tmp_path)))
    options_of_a_run(tmp_path / "run.yaml", RunConfig(output=tmp_path))
    with pytest.raises(SystemExit) as exit_:
        compare.parse(["--config", str(tmp_path / "run.yaml")])
    assert exit_.value.code == 2
    assert "is the folder of a run: choose another --output" in capsys.readouterr().err
    assert compare.parse(["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "c")])


def test_from_the_outside_and_again(run_script, tmp_path):
    checkpoint = tmp_path / "enc.pt"
    save_encoder(checkpoint, build_encoder("resnet8", seed=5), "resnet8", 1, {})
    command = [
        "experiments.compare",
        "--inits",
        "random",
        checkpoint,
        "--seeds",
        0,
        1,
        *TINY,
        "--output",
        tmp_path / "c",
    ]
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stderr.splitlines()[-1]
    assert len(table(tmp_path / "c" / "summary.csv")) == 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "c" / "runs").rglob("*.pt")}
    again = run_script(*command)
    assert again.returncode == 0, again.stderr
    assert "finished" in again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "c" / "runs").rglob("*.pt")}

    alone = run_script("experiments.report", tmp_path / "c" / "runs" / "random-s0", "--output", tmp_path / "r")
    assert alone.returncode == 0, alone.stderr
    words = alone.stderr.splitlines()
    assert words[0].startswith("random: final ")
    assert words[1].startswith("random ends at ")
    assert (tmp_path / "r" / "index.html").is_file()


def test_probe_from_the_outside(run_script):
    done = run_script("experiments.probe", "--inits", "random", "--limit-train", 300, "--image-size", 16)
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert int(row["bank"]) + int(row["queries"]) == 300
    assert 0.2 < float(row["knn_accuracy"]) < 1
    assert 0.2 < float(row["linear_accuracy"]) < 1


def test_a_run_that_fails_is_one_line(tmp_path, capsys):
    flags = [*TINY, "--threads", "1", "--inits", "random", "--seeds", "0", "--output", str(tmp_path / "c")]
    assert compare.main(compare.parse([*flags, "--inject-failures", "1"])) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("experiments.compare: failed in ")
    assert "2 of 2 clients failed in round 1" in last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiments.compare", "--seeds", 1, 1], "--seeds"),
        (["experiments.compare", "--inits"], "--inits"),
        (["experiments.compare", "--init", "x.pt"], "takes --inits, not --init "),
        (["experiments.compare", "--seed", 0], "takes --seeds, not --seed "),
        (["experiments.curve", "--init=random"], "takes checkpoints, not --init "),
        (["experiments.curve", "--seed", 0], "takes --seeds, not --seed "),
        (["experiments.probe", "--init", "x.pt"], "takes --inits, not --init "),
        (["experiments.probe", "--rounds", 3], "--rounds"),
        (["experiments.probe", "--strategy", "fedprox"], "--strategy"),
        (["experiments.compare", "--alpha", 0], "--alpha"),
        (["experiments.compare", "--targets", 2], "--targets"),
        (["experiments.compare", "--config", "nothing.yaml"], "nothing.yaml"),
        (["experiments.compare", "--inits", "random", "nothing.pt"], "nothing.pt"),
        (["experiments.report"], "run"),
        (["experiments.report", "nothing"], "nothing"),
        (["experiments.probe", "--neighbours", 0], "--neighbours"),
        (["experiments.probe", "--validation", 0], "--validation"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run_script, tmp_path, arguments, words):
    assert_refused(run_script(*arguments, cwd=tmp_path), words)
    assert not list(tmp_path.iterdir())


def test_a_title_does_not_say_where_a_folder_lies(tmp_path):
    run = RunConfig(dataset=f"folder:{tmp_path / 'photos'}", clients=4, partition="iid")
    assert CompareConfig(run=run).title == "photos, 4 clients, IID"
    assert CompareConfig(run=replace(run, dataset="digits")).title == "digits, 4 clients, IID"
    assert centralise(run).clients_title == "all data at one client"
