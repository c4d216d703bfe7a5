"""What pictures and the page show of clients that were evaluated after few rounds only."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from experiments.report.arms import group
from experiments.report.curves import curves
from experiments.report.page import write
from experiments.report.picture import figure_of
from federated.config.run import RunConfig
from tests.experiments.runs import write_run

ROUNDS, SPREAD, GAIN = 6, 0.1, 0.2
LONG = "x/an-encoder-with-quite-a-long-name-that-nobody-can-break-and-that-goes-on-and-on.pt"
LAST = [0, ROUNDS]
COURSE = [0, 3, ROUNDS]


def make(tmp_path, evaluated, *, seeds=2, rounds=ROUNDS, fine_tuned=False, **options):
    """Runs that were evaluated at their clients after the rounds that ``evaluated`` gives for each initialisation.

    The mean of the clients is that of ``mean_after``, the worst tenth half of it.
    """
    made = []
    for number, (init, at) in enumerate(evaluated.items()):
        for seed in range(seeds):
            means = [mean_after(r, number, seed) for r in range(rounds + 1)]
            clients = {r: (means[r], SPREAD, means[r] / 2) for r in at}
            tuned = {r: (means[r] + GAIN, SPREAD, means[r] / 2) for r in at if fine_tuned}
            config = replace(RunConfig(rounds=rounds, init=init, seed=seed), **options)
            made.append(write_run(tmp_path / f"{rounds}-{number}-{seed}", config, means, clients, tuned=tuned))
    return made


def mean_after(round_number, arm, seed):
    return 0.1 + 0.05 * round_number + 0.04 * arm + 0.02 * seed


def drawn(runs):
    """The figure and its panels, in reading order."""
    figure = figure_of(group(runs), "t")
    figure.draw_without_rendering()
    return figure, figure.axes


def points(line):
    return [tuple(map(float, point)) for point in np.round(line.get_xydata(), 6)]


def test_two_rounds_are_drawn_as_the_state_after_the_last(tmp_path):
    _, panels = drawn(make(tmp_path, {"random": LAST, "x/fps.pt": LAST}))
    colours = [line.get_color() for line in panels[0].lines]
    mean, worst = panels[2:]
    expected = []
    for number in range(2):
        ends = [mean_after(ROUNDS, number, seed) for seed in range(2)]
        middle = sum(ends) / 2
        seeds = [(pytest.approx(end), pytest.approx(number, abs=0.4)) for end in ends]
        bar = [(pytest.approx(middle + by), number) for by in (-SPREAD, SPREAD)]
        expected += [bar, [(pytest.approx(middle), number)], seeds]
    shown = [line for line in mean.lines if np.isfinite(line.get_xdata()).all()]
    assert [points(line) for line in shown] == expected
    assert [line.get_color() for line in shown] == [colour for colour in colours for _ in range(3)]
    halves = [[(pytest.approx(x.expected / 2), y) for x, y in one] for one in expected]
    assert [points(line) for line in worst.lines] == [one for i, one in enumerate(halves) if i % 3]
    assert not mean.collections
    assert not worst.collections
    for axes in (mean, worst):
        assert "after round 6" in axes.get_xlabel()
        assert axes.get_xlim()[0] == 0
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first arm is on top
    names = mean.get_yticklabels()
    assert [name.get_text() for name in names] == ["random (2 seeds)", "fps (2 seeds)"]
    assert [name.get_color() for name in names] == colours
    assert "fine-tuned" not in mean.get_xlabel()


def test_three_rounds_are_a_course(tmp_path):
    _, panels = drawn(make(tmp_path, {"random": COURSE}))
    for axes, key in zip(panels[2:], ("mean", "worst tenth"), strict=True):
        assert key in axes.get_ylabel()
        assert list(axes.lines[0].get_xdata()) == COURSE
        assert len(axes.collections) == 1


def test_beside_courses_an_arm_without_one_is_a_lone_mark(tmp_path):
    runs = make(tmp_path, {"random": COURSE, "x/fps.pt": LAST})
    _, panels = drawn(runs)
    for axes in panels[2:]:
        lone = [line for line in axes.lines if line.get_color() == "C1"]
        assert all(list(line.get_xdata()) == [ROUNDS] and line.get_marker() == "o" for line in lone)
        (bar,) = axes.collections[1].get_segments()
        assert list(bar[:, 0]) == [ROUNDS, ROUNDS]
        assert bar[0, 1] < lone[0].get_ydata()[0] < bar[1, 1]
    for quantity in curves(group(runs))["quantities"]:
        at_clients = "clients" in quantity["title"]
        assert [one["rounds"] for one in quantity["series"]] == (
            [COURSE, [ROUNDS]] if at_clients else [list(range(ROUNDS + 1))] * 2
        )


def test_without_a_test_set_the_names_stand_beside_the_marks(tmp_path):
    runs = make(tmp_path, {"random": [ROUNDS]}, seeds=1, fine_tuned=True, personal="head")
    _, (mean, worst) = drawn(runs)
    assert [name.get_text() for name in mean.get_yticklabels()] == ["random (1 seed)"]
    hollow = [line for line in mean.lines if line.get_markerfacecolor() == "white"]
    assert [points(line) for line in hollow] == [[(pytest.approx(mean_after(ROUNDS, 0, 0) + GAIN), 0)]]
    assert "fine-tuned" in mean.get_xlabel()
    assert "seed" not in mean.get_xlabel() + worst.get_xlabel()


def test_arms_that_ended_after_different_rounds_are_said_to(tmp_path):
    runs = make(tmp_path, {"random": LAST}) + make(tmp_path, {"random": [0, 4]}, rounds=4)
    assert all("after round 4 or 6" in axes.get_xlabel() for axes in drawn(runs)[1][2:])


@pytest.mark.parametrize("others", [1, 5, 12])
def test_long_names_leave_room_for_each_other_and_for_the_panels(tmp_path, others):
    evaluated = {LONG: LAST, LONG.replace("an-", "$_"): LAST, **{f"{number}.pt": LAST for number in range(others)}}
    figure, panels = drawn(make(tmp_path, evaluated, seeds=1))
    boxes = [name.get_window_extent() for name in panels[2].get_yticklabels()]
    assert len(boxes) == others + 2
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)
    widths = [axes.get_window_extent().width / figure.bbox.width for axes in panels]
    assert min(widths) > 0.3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write(make(folder, {"random": LAST, "x/fps.pt": LAST, LONG: LAST}), folder / "page", (), "t", "c")
    return folder / "page" / "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(chromium, page, width, scheme):
    chromium.assert_fits(page, width, scheme)

    def choose(title):
        buttons = "[...document.querySelectorAll('#quantities button')]"
        chromium.evaluate(f"{buttons}.find(button => button.innerText === '{title}').click()")

    def count(selector):
        return chromium.evaluate(f"return document.querySelectorAll('#chart {selector}').length")

    choose("mean of the clients")
    assert (count("svg"), count(".mark"), count(".bar")) == (0, 3, 3)
    text = chromium.evaluate("return document.querySelector('.states').innerText")
    assert "41.0% (40.0% to 42.0%)" in text
    assert "after round 6" in text
    # A bar reaches from the lowest to the highest seed, with the mean in its middle.
    left, right, middle = chromium.evaluate("""
        const bar = document.querySelector(".bar").getBoundingClientRect();
        const mark = document.querySelector(".mark").getBoundingClientRect();
        return [bar.left, bar.right, (mark.left + mark.right) / 2];
    """)
    assert left < right
    assert middle == pytest.approx((left + right) / 2, abs=0.5)
    assert chromium.overflow() <= 0
    chromium.evaluate("document.querySelectorAll('#legend button')[1].click()")
    assert count(".mark") == 2
    choose("test accuracy")
    assert (count(".states"), count("path.mean")) == (0, 2)
    assert chromium.console() == []
