"""Pictures of the analyses: what can be told apart in them, and which colours and names they have."""

from pathlib import Path

import numpy as np
import pytest

from experiments.analyses import convergence, drift, every, landscape, output, stability
from experiments.report.arms import Arm
from federated.config.run import RunConfig
from tests.experiments.runs import write_run

ARMS = [("random", [Path("r0"), Path("r1")]), ("fps", [Path("f0"), Path("f1")])]
RUNS = [folder for _, members in ARMS for folder in members]


@pytest.fixture
def runs(tmp_path):
    """Of two arms, seed by seed, as ``compare`` makes them; all seeds of an arm reach an accuracy in one round."""
    made = []
    for seed in range(3):
        for init, accuracies in (("random", [0.1, 0.2, 0.4]), ("x/fps_r20.pt", [0.1, 0.4, 0.4])):
            made.append(write_run(tmp_path / f"{init[0]}{seed}", RunConfig(init=init, seed=seed, rounds=2), accuracies))
    return made


def test_seeds_of_one_round_lie_beside_each_other(runs):
    config = convergence.ConvergenceConfig(tuple(run.folder for run in runs), targets=(0.3, 0.9))
    (axes,) = convergence.analyse(config).figure.axes
    random, fps = axes.lines
    assert random.get_ydata().tolist() == [2, 2, 2]
    assert fps.get_ydata().tolist() == [1, 1, 1]
    places = [*random.get_xdata(), *fps.get_xdata()]
    assert len(set(places)) == 6
    assert -0.5 < min(places) < max(places) < 0.5, "they are beside the first target"
    ticks = axes.get_yticks()
    assert np.array_equal(ticks, ticks.round())


def test_a_mean_of_rounds_is_called_one(runs):
    runs[0].folder.joinpath("metrics.jsonl").write_text(runs[1].folder.joinpath("metrics.jsonl").read_text())
    config = convergence.ConvergenceConfig(tuple(run.folder for run in runs), targets=(0.3,))
    random, fps = convergence.analyse(config).sentences
    assert random.startswith("random reaches 30.0% after 1.7 rounds on average and ")
    assert fps.startswith("fps_r20 reaches 30.0% after 1 round and ")


def test_runs_of_an_arm_have_its_colour(runs):
    arms = output.by_arm([run.folder for run in runs])
    assert [(label, [folder.name for folder in members]) for label, members in arms] == [
        ("random", ["r0", "r1", "r2"]), ("fps_r20", ["x0", "x1", "x2"])
    ]  # fmt: skip


def test_drift_has_a_colour_an_arm():
    values = drift.Drift(*np.ones(6))
    figure = drift._draw({run: [(1, {"a": values, drift.ALL: values})] for run in RUNS}, ARMS)
    for axes in figure.axes:
        assert [line.get_color() for line in axes.lines] == ["C0", "C0", "C1", "C1"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["random", "fps"]


def test_stability_has_a_colour_an_arm_and_black_medians():
    found = [stability.Stability(run, 1, 0.5, np.array([0.1, 0.2, 0.4])) for run in RUNS]
    (axes,) = stability._draw(found, ARMS).axes
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_color() for line in diamonds] == ["C0", "C0", "C1", "C1"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["random", "fps"]
    medians = [line for line in axes.lines if line.get_ydata().tolist() == [0.2, 0.2]]
    assert [line.get_color() for line in medians] == ["black"] * 4


def test_names_of_models_do_not_run_over_the_edge():
    at, names = np.array([0.0, 1.0]), ["fps_r20-s0", "fps_r20-s1", "fps_r20-s2"]
    loss = {split: np.ones(2) for split in landscape.SPLITS}
    line = landscape.Line((names[0], names[1]), at, loss, loss)
    grid = np.linspace(-3, 13, 5)
    corners = np.array([[0.0, 0.0], [10.0, 0.0], [5.0, 10.0]])
    plane = landscape.Plane(grid, grid, np.exp(np.add.outer(grid, grid) / 20), corners)
    figure = landscape._draw([line], plane, names)
    figure.canvas.draw()
    axes = figure.axes[1]
    edges = axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] == names
    for text in axes.texts:
        box = text.get_window_extent()
        assert edges.x0 <= box.x0 <= box.x1 <= edges.x1, text.get_text()


def test_a_landscape_is_named_after_its_arm(runs):
    assert every._file_name(Arm("random", runs[::2])) == "landscape-random"
    assert every._file_name(Arm("a/enc.pt, lr 0.1", runs[::2])) == "landscape-a-enc.pt-lr-0.1"
