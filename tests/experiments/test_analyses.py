"""Analyses of models and runs: what they compute, on examples with known answers, and their programs on tiny runs."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.analyses import convergence, drift, encoders, every, fairness, gap, landscape, models, stability
from experiments.analyses.models import Evaluator, combine, final_weights
from experiments.report import page
from experiments.report.arms import centralise, passes
from experiments.report.runs import read_run
from federated.config.run import RunConfig
from federated.server import run as rounds
from federated.server.output import client_models
from fps_pretrain.common.errors import UserError
from tests.conftest import assert_refused
from tests.experiments.runs import table, write_run

TINY = RunConfig(
    arch="resnet8", image_size=16, limit_train=120, limit_test=60, clients=3, partition="iid", rounds=1,
    local_epochs=1, batch_size=32, per_client_every=1, threads=1,
    precision="32",  # in which the analyses evaluate
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders: three federated runs of different seeds and a centralised one; the first keeps clients' models."""
    root = tmp_path_factory.mktemp("runs")
    federated = [replace(TINY, seed=seed, output=root / f"s{seed}") for seed in range(3)]
    centralised = centralise(replace(TINY, output=root / "c0"))
    for config in (*federated, centralised):
        rounds.run(config, quiet=True)
    weights = final_weights(root / "s0")
    generator = torch.Generator().manual_seed(0)
    updates = [
        {n: t + 0.05 * torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
         for n, t in weights.items() if "running_var" not in n}
        for _ in range(3)
    ]  # fmt: skip
    for number in (1, 2):
        kept = client_models.ClientModels(number, [0, 1, 2], [10, 20, 30], weights, updates, weights)
        client_models.save(root / "s0", kept)
    return root


def test_a_combination_is_the_weighted_sum():
    models = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(7)},
    ]
    found = combine(models, [0.25, 0.75])
    assert found["w"].tolist() == [2.5, 5.0]
    assert found["n"] == 7


def test_the_barrier_is_the_rise_above_the_line_between_the_ends():
    at = np.linspace(0, 1, 5)
    assert landscape.barrier(at, np.array([1.0, 1.5, 2.0, 2.5, 3.0])) == pytest.approx(0)
    assert landscape.barrier(at, np.array([1.0, 3.0, 2.0, 2.0, 3.0])) == pytest.approx(1.5)
    assert landscape.barrier(at, np.array([1.0, 0.5, 0.5, 0.5, 1.0])) == 0
    assert landscape.barrier(at, np.array([1.0, 0.5, np.nan, 0.5, 1.0])) == np.inf


def test_drift_of_updates_that_agree_and_of_orthogonal_ones():
    half = torch.tensor([0.5, 0.5])
    same = drift.drift(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), half)
    assert same == pytest.approx((5, 0, 1, 1, 0, 0.5))
    apart = drift.drift(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), half)
    assert apart == pytest.approx((2, 2**0.5, 0.5**0.5, 0, 2, 1))
    one = drift.drift(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 0.0]))
    assert one.variance == pytest.approx(0)


def test_drift_is_measured_by_layer_without_buffers():
    start = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(1), "b.weight": torch.zeros(1)}
    start |= {"b.running_mean": torch.zeros(9)}
    updates = [
        {"a.weight": torch.tensor([3.0, 0.0]), "a.bias": torch.tensor([4.0]), "b.weight": torch.tensor([12.0])},
        {"a.weight": torch.tensor([3.0, 0.0]), "a.bias": torch.tensor([4.0]), "b.weight": torch.tensor([-12.0])},
    ]
    found = drift.by_layer(start, updates, torch.tensor([0.5, 0.5]))
    assert list(found) == ["a", "b", "all"]
    assert [one.norm for one in found.values()] == pytest.approx([5, 12, 13])
    assert found["b"].to_clients == pytest.approx(-1)


def test_models_are_judged_as_their_run_judged_them(runs):
    run = read_run(runs / "s0")
    loss, accuracy = Evaluator.of(run.config).evaluate(final_weights(run.folder))
    assert accuracy == pytest.approx(run.history[-1]["test_accuracy"])
    assert loss == pytest.approx(run.history[-1]["test_loss"], rel=1e-5)


def test_landscape(runs, tmp_path):
    folders = tuple(runs / f"s{seed}" for seed in range(3))
    config = landscape.LandscapeConfig(folders, points=3, grid=3, limit=40, output=tmp_path)
    assert landscape.main(config) == 0
    rows = table(tmp_path / "landscape.csv")
    lines = [row for row in rows if row["from"] != "plane"]
    assert len(lines) == 3 * 2 * 3
    assert len(rows) - len(lines) == 9
    # The end of one line is the start of another.
    loss = {(row["from"], row["to"], row["split"], row["at"]): row["loss"] for row in lines}
    assert loss["s0", "s1", "test", "1"] == loss["s1", "s2", "test", "0"]
    assert (tmp_path / "landscape.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "landscape.txt").read_text().startswith("s0 to s1: loss barrier ")


def test_a_line_goes_from_the_first_model_to_the_second_each_with_statistics_of_its_own():
    class WithStatistics:
        def with_statistics(self, weights):
            return {"w": weights["w"] + 10}

        def evaluate(self, weights, split):
            return float(weights["w"]) + (split == "train"), 0.0

    line = landscape.between(WithStatistics(), {"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}, 3, ("a", "b"))
    assert line.loss["test"].tolist() == [11, 12, 13]
    assert line.loss["train"].tolist() == [12, 13, 14]


def test_the_plane_goes_through_the_three_models():
    class ByWeight:
        def with_statistics(self, weights):
            return weights

        def evaluate(self, weights):
            return float(weights["w"] @ torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)), 0.0

    rng = np.random.default_rng(0)
    models = [{"w": torch.tensor(rng.normal(size=3))} for _ in range(3)]
    found = landscape.plane(ByWeight(), models, 5)
    # A linear function of the weights is linear on the plane: it is known everywhere from the three corners.
    corners = np.c_[found.corners, np.ones(3)]
    values = np.linalg.solve(corners, [ByWeight().evaluate(model)[0] for model in models])
    x, y = np.meshgrid(found.x, found.y)
    assert found.loss == pytest.approx(x * values[0] + y * values[1] + values[2])


def test_stability_and_drift_of_kept_rounds(runs, tmp_path):
    config = stability.StabilityConfig((runs / "s0",), samples=4, limit=40, output=tmp_path)
    assert stability.main(config) == 0
    rows = table(tmp_path / "stability.csv")
    assert [(row["round"], row["weights"]) for row in rows] == [
        (number, weights) for number in "12" for weights in ("fedavg", *["random"] * 4)
    ]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    fall = np.mean([float(rows[i]["accuracy"]) - np.mean([float(row["accuracy"]) for row in rows[i + 1 : i + 5]])
                    for i in (0, 5)])  # fmt: skip
    where = "below" if fall > 0 else "above"
    assert f"on average {abs(100 * fall):.1f} points {where} FedAvg's" in (tmp_path / "stability.txt").read_text()
    stability.main(config)
    assert table(tmp_path / "stability.csv") == rows
    assert drift.main(drift.DriftConfig((runs / "s0",), tmp_path)) == 0
    layers = {row["layer"] for row in table(tmp_path / "drift.csv")}
    assert {"all", "head", "encoder.conv1"} <= layers
    for name in ("stability.png", "drift.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_models_without_statistics_are_not_judged_with_those_of_the_round_before(tmp_path):
    """With --bn-stats server clients send none."""
    config = replace(TINY, bn_stats="server", local_epochs=4, keep_clients_every=1, output=tmp_path / "run")
    rounds.run(config, quiet=True)
    ask = stability.StabilityConfig((config.folder,), samples=2)
    before = stability.measure(config.folder, ask)
    for one in before:
        kept = client_models.load(config.folder, one.round)
        other = {name: t + 3 if "running_mean" in name else t for name, t in kept.start.items()}
        client_models.save(config.folder, replace(kept, start=other))
    after = stability.measure(config.folder, ask)
    assert [(one.fedavg, *one.random) for one in after] == [(one.fedavg, *one.random) for one in before]


def test_fedavgs_weights_are_shares_of_the_examples_and_random_ones_as_concentrated_as_asked(runs, monkeypatch):
    seen = []
    monkeypatch.setattr(models, "combine", lambda kept, weights: seen.append(weights) or kept[0])
    stability.measure(runs / "s0", stability.StabilityConfig((runs / "s0",), samples=3, concentration=1e4, limit=10))
    assert seen[0] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert np.array(seen[1:4]) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.03)


def test_convergence_counts_rounds_and_bytes(runs, tmp_path):
    config = convergence.ConvergenceConfig((runs / "s0", runs / "s1"), targets=(0.01, 0.99), output=tmp_path)
    assert convergence.main(config) == 0
    rows = table(tmp_path / "convergence.csv")
    assert [row["round"] for row in rows] == ["0", "", "0", ""]
    sizes = convergence.message_sizes(read_run(runs / "s0"))
    assert (sizes.down, sizes.once) == (sizes.up, 0)
    assert convergence.traffic(read_run(runs / "s0"), sizes) == {0: 0, 1: 3 * (sizes.down + sizes.up)}
    said = (tmp_path / "convergence.txt").read_text()
    assert said.startswith("random reaches 1.0% after 0 rounds and 0.000 GB, 99.0% in none of its 2 runs (means over 2")


def test_fairness_reads_the_clients_accuracies(runs, tmp_path):
    assert fairness.main(fairness.FairnessConfig((runs / "s0", runs / "s1"), output=tmp_path)) == 0
    rows = table(tmp_path / "fairness.csv")
    assert [row["client"] for row in rows] == ["0", "1", "2"] * 2
    run = read_run(runs / "s0")
    assert fairness.accuracies(run).mean() == pytest.approx(run.history[-1]["client_accuracy_mean"], abs=1e-5)
    spread = np.mean([fairness.accuracies(read_run(runs / name)).std() for name in ("s0", "s1")])
    assert f"standard deviation {100 * spread:.1f} points" in (tmp_path / "fairness.txt").read_text()
    bare = write_run(tmp_path / "bare", TINY, [0.1, 0.2])
    with pytest.raises(UserError, match="--per-client-every"):
        fairness.accuracies(bare)


def test_starts_of_one_file_name_are_told_apart(tmp_path):
    runs = [
        write_run(tmp_path / where, replace(TINY, init=f"{where}/enc.pt"), [0.1, 0.1], {1: (mean, 0.0, mean)})
        for where, mean in (("a", 0.2), ("b", 0.9))
    ]
    result = fairness.analyse(fairness.FairnessConfig(tuple(run.folder for run in runs)))
    assert [sentence.split("%")[0] for sentence in result.sentences] == ["a/enc.pt: 20.0", "b/enc.pt: 90.0"]


def test_a_difference_of_worst_tenths_is_not_taken_for_that_of_means(tmp_path):
    """Means differ by 10 points, worst tenths by 5 the other way."""
    at_clients = {"random": [(0.3, 0.20), (0.3, 0.20)], "x/fps_r20.pt": [(0.4, 0.14), (0.4, 0.16)]}
    made = []
    for init, seeds in at_clients.items():
        for seed, (mean, worst) in enumerate(seeds):
            config = replace(TINY, init=init, seed=seed)
            made.append(write_run(tmp_path / f"{len(made)}", config, [0.1, 0.1], {1: (mean, 0.0, worst)}))
    random, fps = fairness.analyse(fairness.FairnessConfig(tuple(run.folder for run in made))).sentences
    assert random.endswith("worst tenth 20.0% (2 seeds).")
    assert "on average over the clients (10.0 points above random's), standard deviation " in fps
    assert fps.endswith("worst tenth 15.0%, which is 5.0 points below random's [-17.7, +7.7] (2 seeds).")


def test_one_run_named_twice_is_refused(runs):
    with pytest.raises(UserError, match="same seed: name each run once"):
        fairness.analyse(fairness.FairnessConfig((runs / "s0", runs / "s0")))


def test_analyses_of_fewer_runs_are_removed_and_not_shown(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(every, "_landscape", lambda name, members: _refuse)
    for name in ("drift.txt", "landscape-old.png", "mine.txt"):
        (tmp_path / name).write_text("of before")
    every.run_all([runs / "s1", runs / "s2"], tmp_path)
    assert {path.name for path in tmp_path.glob("*.txt")} == {"convergence.txt", "fairness.txt", "mine.txt"}
    found = [read_run(runs / name) for name in ("s1", "s2")]
    assert [one["name"] for one in page._analyses(tmp_path, found)] == ["convergence", "fairness", "mine"]
    later = max(path.stat().st_mtime for path in tmp_path.iterdir()) + 10
    os.utime(runs / "s2" / "metrics.jsonl", (later, later))
    assert page._analyses(tmp_path, found) == []


def test_the_gap_to_centralised_training(tmp_path):
    finals = {"random": [(0.3, 0.6), (0.4, 0.6)], "x/fps_r20.pt": [(0.5, 0.65), (0.5, 0.6)]}
    made = []
    for init, seeds in finals.items():
        for seed, pair in enumerate(seeds):
            config = replace(TINY, init=init, seed=seed)
            for kind, end in zip((config, centralise(config)), pair, strict=True):
                made.append(write_run(tmp_path / f"{len(made)}", kind, [0.1, end]))
    result = gap.analyse(gap.GapConfig(tuple(run.folder for run in made)))
    assert result.sentences[0].startswith("random: centralised 60.0%, federated 35.0%, a gap of +25.0 points [")
    assert result.sentences[2].startswith("The gap of fps_r20 less that of random: -12.5 points [")
    config = gap.GapConfig(tuple(run.folder for run in made))
    assert result.sentences[3] == f"All at --lr {TINY.lr:g}; --lrs finds each start's own."
    assert len(gap.analyse(config, tuned=True).sentences) == 3
    write_run(tmp_path / "lower", replace(TINY, seed=2, lr=0.01), [0.1, 0.9])
    assert len(gap.analyse(replace(config, runs=(*config.runs, tmp_path / "lower"))).sentences) == 3
    with pytest.raises(UserError, match="--centralised"):
        gap.gaps(made[::2])
    milder = write_run(tmp_path / "milder", replace(TINY, seed=2, momentum=0.5), [0.1, 0.9])
    with pytest.raises(UserError, match="the federated runs differ in momentum"):
        gap.gaps([*made, milder])


def test_whether_a_lead_is_the_methods_or_one_encoders(tmp_path):
    finals = {"random": (0.3, 0.4), "a/fps.pt": (0.5, 0.6), "b/fps.pt": (0.6, 0.7), "c/fps.pt": (0.4, 0.5)}
    made = [
        write_run(tmp_path / f"{init.replace('/', '-')}{seed}", replace(TINY, init=init, seed=seed), [0.1, end])
        for init, ends in finals.items()
        for seed, end in enumerate(ends)
    ]
    result = encoders.analyse(encoders.EncodersConfig(tuple(run.folder for run in made)))
    assert result.sentences[0].startswith("3 encoders of one method end +20.0 points [-4.8, +44.8] from random")
    assert "between +10.0 and +30.0 points; the encoders' standard deviation is 10.0 points" in result.sentences[1]
    assert [row[:2] for row in result.rows][:3] == [("a/fps.pt", 0), ("a/fps.pt", 1), ("b/fps.pt", 0)]
    for too_few, why in ((made[:4], "at least two encoders"), (made[:-1], "every start needs the same")):
        with pytest.raises(UserError, match=why):
            encoders.finals(too_few)
    with pytest.raises(UserError, match="every start needs the same two seeds"):
        encoders.finals(made[::2])
    changed = [replace(run, config=replace(run.config, momentum=0.5, lr=0.3)) for run in made[-2:]]
    with pytest.raises(UserError, match="in one federation, and these runs differ in momentum"):
        encoders.finals([*made[:-2], *changed])


def test_a_centralised_run_sees_as_many_examples():
    federated = RunConfig(clients=100, participation=0.1, rounds=100, local_epochs=5, alpha=0.1, strategy="fedprox")
    found = centralise(federated)
    assert (found.clients, found.rounds, found.local_epochs, found.strategy) == (1, 50, 1, "fedavg")
    assert passes(found) == passes(federated) == 50
    assert centralise(RunConfig(rounds=15, local_epochs=2)).rounds == 15
    assert passes(centralise(RunConfig(rounds=4, local_epochs=5, clients=20, participation=0.35))) == 7
    near_none = RunConfig(rounds=3, local_epochs=3, clients=20, participation=0.5)
    assert passes(near_none) == 4.5
    for config in (found, RunConfig(dp="fixed"), near_none):
        with pytest.raises(UserError, match="--centralised"):
            centralise(config)


def test_every_analysis_that_the_runs_allow(runs, tmp_path, capsys, monkeypatch):
    chosen = []
    monkeypatch.setattr(every, "_landscape", lambda name, members: lambda: chosen.append(members) or _refuse())
    every.run_all([runs / name for name in ("s0", "s1", "c0")], tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"convergence", "fairness", "gap"}
    assert [run.folder.name for run in chosen[0]] == ["s0", "s1"]
    said = capsys.readouterr().err
    assert "left out: stability: " in said
    assert "left out: landscape-random: " in said
    every.run_all([runs / "s0"], tmp_path)
    assert "left out: landscape: no arm has runs of two seeds or more" in capsys.readouterr().err


def _refuse():
    raise UserError("none")


@pytest.mark.parametrize("name", ["landscape", "stability", "gap", "encoders"])
def test_bad_input_is_one_line(run_script, tmp_path, name):
    folders = [tmp_path / "nothing"] * 2
    assert_refused(run_script(f"experiments.analyses.{name}", *folders, cwd=tmp_path), "nothing")
    assert not list(tmp_path.iterdir())
