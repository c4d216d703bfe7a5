"""Accuracy against pairs: what is measured, kept and concluded."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from experiments import curve
from experiments.learning_curve import picture as curve_picture
from experiments.learning_curve import values as curve_values
from experiments.learning_curve.config import CurveConfig
from experiments.learning_curve.measure import candidates
from experiments.learning_curve.values import RANDOM, Value
from federated.config.run import RunConfig
from federated.data import sets
from federated.server.run import Diverged
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.experiments.runs import table

FEDERATION = RunConfig(
    dataset="digits",
    arch="resnet8",
    image_size=16,
    clients=2,
    rounds=2,
    local_epochs=1,
    limit_train=200,
    limit_test=40,
    validation=0.5,
    threads=1,
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for seed, pairs in ((1, 1000), (2, 10_000)):
        encoder = build_encoder("resnet8", seed=seed)
        save_encoder(folder / f"{pairs}.pt", encoder, "resnet8", 1, {"method": "simclr", "pairs_seen": pairs})
    return folder


def config_of(folder, *encoders, **changes):

    return CurveConfig(tuple(map(str, encoders)), run=replace(FEDERATION, output=folder), **changes)


def test_a_curve_is_measured_kept_and_drawn(encoders, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "curve"
    first = config_of(folder, encoders / "1000.pt")
    assert curve.main(first) == 0
    rows = table(folder / "curve.csv")
    counts = {measure: sum(row["measure"] == measure for row in rows) for measure in curve_values.TITLES}
    # Random weights have a value a seed; frozen features of a checkpoint have one in all.
    assert counts == {"knn": 3, "linear": 3, "federation": 4, "federation_mean": 4}
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert {row["pairs"] for row in rows if row["label"] == "simclr"} == {"1000"}
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()

    both = config_of(folder, encoders / "1000.pt", f"other={encoders / '10000.pt'}", measures=("knn",))
    measured = []
    frozen = curve.classify_frozen
    monkeypatch.setattr(curve, "classify_frozen", lambda run, *args: measured.append(run.init) or frozen(run, *args))
    assert curve.main(both) == 0
    assert measured == [str(encoders / "10000.pt")]
    again = table(folder / "curve.csv")
    assert again[: len(rows)] == rows
    assert len(again) == len(rows) + 1
    said = capsys.readouterr().out
    assert "nearest neighbours: random weights" in said
    assert "other: " in said

    with pytest.raises(UserError, match="other options"):
        curve.main(CurveConfig(run=RunConfig(**{**vars(FEDERATION), "rounds": 3, "output": folder})))


def test_each_encoder_counts_with_the_learning_rate_that_does_best_with_it(encoders, tmp_path):
    folder = tmp_path / "curve"
    config = config_of(folder, encoders / "1000.pt", measures=("federation",), seeds=(0,), lrs=(0.01, 0.1))
    assert curve.main(config) == 0
    values = curve_values.read_table(folder / "curve.csv")
    assert {(v.label, v.lr) for v in values} == {(arm, lr) for arm in (RANDOM, "simclr") for lr in (0.01, 0.1)}
    for arm in (RANDOM, "simclr"):
        ends = {v.lr: v.accuracy for v in values if v.label == arm and v.measure == "federation"}
        kept = {v.lr for v in curve_values.at_best_rates(values) if v.label == arm}
        assert kept == {max(sorted(ends), key=ends.__getitem__)}
    # A rate more is a run more, and what there is stays.
    assert curve.main(replace(config, lrs=(0.01, 0.1, 0.05))) == 0
    more = curve_values.read_table(folder / "curve.csv")
    assert more[: len(values)] == values
    assert [(v.label, v.lr) for v in more[len(values) :: 2]] == [(RANDOM, 0.05), ("simclr", 0.05)]


def test_a_curve_goes_on_with_what_changes_no_value_and_with_a_new_label(encoders, tmp_path):
    folder = tmp_path / "curve"
    first = config_of(folder, encoders / "1000.pt", measures=("knn",), seeds=(0,))
    assert curve.main(first) == 0
    before = curve_values.read_table(folder / "curve.csv")
    moved = replace(first.run, device="cpu", workers=0, lr=0.3)
    again = replace(first, run=moved, encoders=(f"mine={encoders / '1000.pt'}", str(encoders / "10000.pt")))
    assert curve.main(again) == 0
    after = curve_values.read_table(folder / "curve.csv")
    assert [value.label for value in after] == [RANDOM, "mine", "simclr"]
    assert [value.accuracy for value in after[:2]] == [value.accuracy for value in before]


def test_one_table_holds_values_of_one_data_set(encoders, tmp_path):
    rng = np.random.default_rng(0)

    def draw():
        for split, kind, number in itertools.product(("train", "test"), "ab", range(6)):
            path = tmp_path / "images" / split / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)

    draw()
    run = RunConfig(
        dataset=f"folder:{tmp_path / 'images'}", arch="resnet8", image_size=16, validation=0.5, threads=1,
        output=tmp_path / "curve",
    )  # fmt: skip
    config = CurveConfig((str(encoders / "1000.pt"),), measures=("knn",), seeds=(0,), run=run)
    assert curve.main(config) == 0
    table = (tmp_path / "curve" / "curve.csv").read_text()
    draw()
    sets._load.cache_clear()  # as in another process
    with pytest.raises(UserError, match="measured on other data"):
        curve.main(replace(config, encoders=(*config.encoders, str(encoders / "10000.pt"))))
    assert (tmp_path / "curve" / "curve.csv").read_text() == table


def test_a_federation_that_diverges_is_one_line(encoders, tmp_path, capsys):
    diverging = config_of(tmp_path, encoders / "1000.pt", measures=("federation",), lrs=(1e30,))
    with pytest.raises(SystemExit) as ended:
        cli.run(curve.PROG, curve.main, diverging)
    assert ended.value.code == 3
    assert "lower --lr" in capsys.readouterr().err.splitlines()[-1]


def test_a_rate_that_diverges_does_not_count(encoders, tmp_path, capsys):
    config = config_of(tmp_path / "c", encoders / "1000.pt", measures=("federation",), seeds=(0,), lrs=(0.01, 1e30))
    for _ in range(2):  # again, it is the same
        assert curve.main(config) == 0
        values = curve_values.read_table(tmp_path / "c" / "curve.csv")
        assert [(v.label, v.lr) for v in values if v.measure == "federation"] == [(RANDOM, 0.01), ("simclr", 0.01)]
        said = capsys.readouterr()
        assert sum("lr 1e+30: not counted, since it diverges" in line for line in said.err.splitlines()) == 2
        assert "simclr: " in said.out
    assert (tmp_path / "c" / "curve.png").is_file()


def test_a_rate_that_diverges_with_one_seed_counts_with_none(encoders, tmp_path, monkeypatch):
    def federate(run):
        if run.seed == 1 and run.lr == 0.1 and run.init != RANDOM:
            raise Diverged("round 1 is not finite")
        return {"federation": 0.5}

    monkeypatch.setattr(curve, "federate", federate)
    config = config_of(tmp_path / "c", encoders / "1000.pt", measures=("federation",), seeds=(0, 1), lrs=(0.01, 0.1))
    assert curve.main(config) == 0
    found = {(v.label, v.seed, v.lr) for v in curve_values.read_table(tmp_path / "c" / "curve.csv")}
    assert found == {(RANDOM, 0, 0.01), (RANDOM, 0, 0.1), (RANDOM, 1, 0.01), (RANDOM, 1, 0.1)} | {
        ("simclr", 0, 0.01), ("simclr", 1, 0.01),
    }  # fmt: skip


def test_an_encoder_without_a_rate_left_is_one_line(encoders, tmp_path, capsys):
    diverging = config_of(tmp_path, encoders / "1000.pt", measures=("federation",), seeds=(0,), lrs=(1e29, 1e30))
    with pytest.raises(SystemExit) as ended:
        cli.run(curve.PROG, curve.main, diverging)
    assert ended.value.code == 3
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("random can be trained with none of --lrs: name lower ones")
    )


def test_a_comparisons_recipe_is_taken(encoders, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("inits: [random]\nseeds: [3]\nslurm: [time=1]\njobs: 2\nallow_different: [data]\nrounds: 4\n")
    config = curve.parse([str(encoders / "1000.pt"), "--config", str(recipe)])
    assert (config.seeds, config.run.rounds) == ((3,), 4)


def test_the_best_rate_is_that_of_the_mean_over_seeds():
    def value(measure, seed, lr, accuracy):
        return Value("moco", 10, "x.pt", "x", measure, seed, lr, accuracy)

    frozen = value("knn", -1, 0.0, 0.9)
    low = [value("federation", seed, 0.01, accuracy) for seed, accuracy in ((0, 0.5), (1, 0.1))]
    high = [value("federation", seed, 0.1, 0.4) for seed in (0, 1)]
    mean = value("federation_mean", 0, 0.01, 0.8)
    assert curve_values.at_best_rates([frozen, *low, *high, mean]) == [frozen, *high]
    # A rate with fewer seeds is compared on those.
    more = [value("federation", 0, 0.2, 0.55), value("federation", 1, 0.2, 0.1)]
    assert curve_values.at_best_rates([value("federation", 0, 0.05, 0.5), *more]) == more
    # Of equals the lowest counts, in whatever order they were measured.
    equals = [value("federation", 0, lr, 0.5) for lr in (0.1, 0.02, 0.3)]
    assert curve_values.at_best_rates(equals) == equals[1:2]


def test_what_is_no_curve_is_refused(encoders, tmp_path):
    with pytest.raises(UserError, match="same weights"):
        curve.main(config_of(tmp_path / "a", encoders / "1000.pt", f"b={encoders / '1000.pt'}"))
    save_encoder(tmp_path / "bare.pt", build_encoder("resnet8", seed=1), "resnet8", 1, {})
    with pytest.raises(UserError, match="how many pairs"):
        curve.main(config_of(tmp_path / "a", tmp_path / "bare.pt"))
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="--validation"):
        CurveConfig(run=RunConfig(validation=0.0))
    with pytest.raises(UserError, match="--seeds"):
        CurveConfig(seeds=(1, 1))
    with pytest.raises(UserError, match="--lrs"):
        CurveConfig(lrs=(0.1, 0.1))
    with pytest.raises(UserError, match="--lr"):
        CurveConfig(lrs=(0.1, -1.0))
    with pytest.raises(UserError, match="not --init"):
        CurveConfig(run=RunConfig(validation=0.5, seed=3))
    with pytest.raises(UserError, match="--personal head"):
        CurveConfig(run=RunConfig(validation=0.5, personal="head"))
    with pytest.raises(UserError, match="label random"):
        curve.main(config_of(tmp_path / "a", f"random={encoders / '1000.pt'}"))
    (tmp_path / "b").mkdir()
    with locked(tmp_path / "b"), pytest.raises(UserError, match="worked on by another"):
        curve.main(config_of(tmp_path / "b", encoders / "1000.pt"))
    (tmp_path / "b" / "curve.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="line 2 is not a table"):
        curve.main(config_of(tmp_path / "b", encoders / "1000.pt"))


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.1, 0.2, 0.4], 10**5.5),  # half-way between 10^5 and 10^6
        ([0.1, 0.4, 0.2], None),
        ([0.4, 0.5, 0.6], 1e4),
        ([0.4, 0.2, 0.4], 10**5.5),  # that it was above before does not count
        ([0.1, 0.3, 0.6], 1e5),
        ([0.3, 0.3, 0.3], None),  # level with random weights is not above them
    ],
)
def test_the_budget_from_which_on_a_curve_is_above_random_weights(accuracies, expected):
    found = curve_values.crossing(np.array([1e4, 1e5, 1e6]), np.array(accuracies), 0.3)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_curve_averages_over_checkpoints_and_seeds():
    numbers = [
        (RANDOM, 0, 0, 0.3),
        ("moco", 10, 0, 0.2),
        ("moco", 10, 1, 0.3),
        ("moco", 100, 0, 0.6),
        ("b", 10, 0, 0.9),
    ]
    values = [Value(label, pairs, "x.pt", f"{label}{pairs}", "knn", s, 0.0, a) for label, pairs, s, a in numbers]
    budgets, middle, low, high = curve_values.means(values, "moco", "knn")
    assert budgets.tolist() == [10, 100]
    assert np.stack([middle, low, high]).tolist() == [pytest.approx(r) for r in ([0.25, 0.6], [0.2, 0.6], [0.3, 0.6])]
    lines = list(curve_values.summary(values))
    assert lines[0] == "nearest neighbours: random weights 30.0%"
    assert lines[1] == "  b: 90.0% after 10 pairs, on average above random weights from the first on"
    assert lines[2].startswith("  moco: 60.0% after 100 pairs, on average above random weights from about 14 pairs on")


def test_federations_are_compared_with_random_weights_over_the_seeds_that_both_have():
    def value(label, pairs, seed, accuracy, measure="federation"):
        return Value(label, pairs, "x.pt", f"{label}{pairs}", measure, seed, 0.05, accuracy)

    random = [value(RANDOM, 0, 0, 0.3), value(RANDOM, 0, 1, 0.5)]  # seed 1 is easier than seed 0
    easy = [value("b", 10, 1, 0.45)]
    hard = [value("a", 10, 0, 0.35)]
    both = [value("c", 10, 0, 0.2), value("c", 100, 0, 0.32), value("c", 100, 1, 0.52)]
    other = [value("d", 10, 7, 0.9)]
    lines = list(curve_values.summary([*random, *easy, *hard, *both, *other]))
    assert lines[1:] == [
        "  a: 35.0% after 10 pairs, on average above random weights from the first on, compared over 1 of 2 seeds",
        "  b: 45.0% after 10 pairs, on average below random weights, compared over 1 of 2 seeds",
        "  c: 42.0% after 100 pairs, on average above random weights from about 68 pairs on, "
        "compared over 1 to 2 of 2 seeds",
        "  d: 90.0% after 10 pairs; random weights have none of its seeds",
    ]
    whole = [*random, value("c", 10, 0, 0.32), value("c", 10, 1, 0.52)]
    assert list(curve_values.summary(whole))[1].endswith("above random weights from the first on")


def test_a_picture_has_room_for_any_number_of_curves():
    values = [Value(f"method {n:02}", 10, "x.pt", str(n), "knn", -1, 0.0, n / 50) for n in range(23)]
    assert curve_picture.draw(values).startswith(b"\x89PNG")


def test_the_longest_curves_come_first():
    def value(label, pairs):
        return Value(label, pairs, "x.pt", f"{label}{pairs}", "knn", -1, 0.0, 0.5)

    points = [value("a", 10), value("b", 10), value("b", 20), value("c", 10), value("c", 20), value(RANDOM, 0)]
    assert curve_picture.longest_first(points) == ["b", "c", "a"]


def test_a_path_may_hold_an_equals_sign(encoders, tmp_path):
    (tmp_path / "lr=0.1").mkdir()
    file = tmp_path / "lr=0.1" / "encoder.pt"
    file.write_bytes((encoders / "1000.pt").read_bytes())
    found = candidates([str(file), f"mine={encoders / '10000.pt'}"], "resnet8", 1)
    assert [(one.label, one.init) for one in found] == [("simclr", str(file)), ("mine", str(encoders / "10000.pt"))]


def test_a_table_keeps_accuracies_to_the_last_digit(tmp_path):
    values = [Value("a", 1, "a.pt", "0" * 64, "federation", 0, lr, accuracy) for lr, accuracy in TIED]
    curve_values.write_table(tmp_path / "curve.csv", values)
    read = curve_values.read_table(tmp_path / "curve.csv")
    assert read == values
    assert curve_values.at_best_rates(read) == values[1:]


TIED = ((0.01, 0.50003), (0.1, 0.50004))
