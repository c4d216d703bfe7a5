"""What the page says first, and how it behaves in a browser."""

import re
from dataclasses import replace

import numpy as np
import pytest

from experiments.report import text_tables
from experiments.report.__main__ import ReportConfig
from experiments.report.arms import group
from experiments.report.comparable import check
from experiments.report.headline import bracket, cautions, sentences
from experiments.report.page import write
from experiments.report.statistics import Interval
from experiments.report.summary import summarise
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError
from tests.experiments.runs import write_run

BASE = RunConfig(rounds=20)


def make(tmp_path, ends, seeds=3, base=BASE):
    """Runs whose accuracy rises to ``ends`` by initialisation, a little differently for each seed."""
    made = []
    for init, end in ends.items():
        for seed in range(seeds):
            rise = 1 - np.exp(-np.arange(base.rounds + 1) / 4)
            config = replace(base, init=init, seed=seed)
            folder = tmp_path / f"{len(made)}"
            made.append(write_run(folder, config, 0.1 + (end - 0.1) * rise + 0.01 * seed))
    return made


def said(runs):
    summaries = summarise(group(runs), (0.5,))
    return sentences(summaries), cautions(summaries)


def test_missing_seeds_and_failed_runs_are_said(tmp_path):
    """The difference of the means is another than the mean difference where an arm has a seed of its own."""
    made = make(tmp_path, {"random": 0.4, "x/a.pt": 0.45})
    runs = [run for run in made if (run.config.init, run.config.seed) != ("random", 2)]
    _, caution = said(runs)
    assert caution[0] == (
        "a has 3 seeds, random 2: they are compared over the 2 of both, and their means are over all of their own."
    )
    write(runs, tmp_path / "page", (), "t", "c", failed=["random-s2"])
    assert "Left out, since they failed: random-s2." in (tmp_path / "page" / "index.html").read_text()
    (table,) = text_tables.read([tmp_path / "page" / "summary.csv"])
    assert table.rows[1][5].endswith("] (of 2 seeds)")
    assert not table.rows[0][5]


def test_the_page_begins_with_what_came_out(tmp_path):
    base = replace(BASE, rounds=1)
    finals = {"random": (0.3, 0.32, 0.31), "x/fps_r20.pt": (0.46, 0.47, 0.465), "y/worse.pt": (0.2, 0.21, 0.22)}
    finals["z/same.pt"] = (0.29, 0.33, 0.31)
    runs = [
        write_run(tmp_path / f"{i}{seed}", replace(base, init=init, seed=seed), [0.1, end])
        for i, (init, ends) in enumerate(finals.items())
        for seed, end in enumerate(ends)
    ]
    headline, caution = said(runs)
    assert headline == [
        "fps_r20 ends 15.5 points above random [14.3, 16.7], 3 seeds.",
        "worse ends 10.0 points below random [-12.5, -7.5], 3 seeds.",
        "same cannot be told apart from random: it ends 0.0 points above random [-2.5, +2.5], 3 seeds.",
    ]
    (line,) = caution
    assert line.startswith("This page holds 6 intervals of 95% each, not corrected")
    assert line.endswith("up to 30%.")
    write(runs, tmp_path / "page", (), "t", "c")
    text = (tmp_path / "page" / "index.html").read_text()
    assert text.index("above random [14.3, 16.7]") < text.index("<h2>")


@pytest.mark.parametrize(
    ("seeds", "words"), [(1, "From one seed there is no interval"), (2, "An interval from 2 seeds means little")]
)
def test_few_seeds_are_said_to_mean_little(tmp_path, seeds, words):
    headline, caution = said(make(tmp_path, {"random": 0.3, "x/fps_r20.pt": 0.5}, seeds=seeds))
    assert caution[0].startswith(words)
    assert ("[" in headline[0]) == (seeds > 1)


@pytest.mark.parametrize(
    ("fewest", "words"), [(1, "From one seed there is no interval"), (2, "An interval from 2 seeds means little")]
)
def test_the_arm_with_the_fewest_seeds_is_said_to_have_few(tmp_path, fewest, words):
    made = make(tmp_path, {"random": 0.3, "x/a.pt": 0.5, "y/b.pt": 0.4})
    runs = [run for run in made if run.config.init != "y/b.pt" or run.config.seed < fewest]
    assert any(line.startswith(words) for line in said(runs)[1])


def test_arms_that_end_alike_cannot_be_told_apart(tmp_path):
    headline, _ = said(make(tmp_path, {"random": 0.3, "x/a.pt": 0.3}))
    assert headline == ["a cannot be told apart from random: it ends 0.0 points above random [+0.0, +0.0], 3 seeds."]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.0101, 0.0999, "[1.0, 10.0]"),
        (-0.0101, 0.0999, "[-1.0, +10.0]"),
        (-0.0999, -0.0101, "[-10.0, -1.0]"),
        (-0.0004, 0.02, "[+0.0, +2.0]"),
        (-0.02, -0.0004, "[-2.0, +0.0]"),
    ],
)
def test_intervals_have_signs_where_one_end_is_not_above_zero(low, high, shown):
    assert bracket(Interval((low + high) / 2, low, high, 3)) == shown


def test_an_arm_alone_is_said_to_end_somewhere(tmp_path):
    headline, caution = said(make(tmp_path, {"random": 0.3}, seeds=1))
    assert re.fullmatch(r"random ends at \d\d\.\d% test accuracy, 1 seed\.", headline[0])
    assert caution == []


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("data", {}, {"limit_train": 500}),
        ("budget", {}, {"local_epochs": 3}),
        ("budget", {}, {"participation": 0.5}),
        ("revision", {"environment": {"revision": "a"}}, {"environment": {"revision": "b"}}),
    ],
)
def test_runs_that_differ_otherwise_are_not_compared(tmp_path, name, one, other):
    runs = []
    for number, changes in enumerate((one, other)):
        changes = dict(changes)
        environment = changes.pop("environment", None)
        config = replace(BASE, rounds=1, **changes)
        runs.append(write_run(tmp_path / str(number), config, [0.1, 0.2], environment=environment))
    with pytest.raises(UserError, match=f"--allow-different {name}"):
        check(runs)
    check(runs, [name])


def test_a_run_that_is_not_finished_is_not_compared_with_others(tmp_path):
    """At the same round it is five points ahead, and at its own last round behind the other's end."""
    one = write_run(tmp_path / "a", replace(BASE, rounds=3), [0.1, 0.2, 0.3, 0.4])
    two = write_run(tmp_path / "b", replace(BASE, rounds=3, init="x.pt"), [0.1, 0.25])
    with pytest.raises(UserError, match=r"a has all its rounds, and .*b 1 of its 3 rounds; --allow-different progress"):
        check([one, two])
    check([one, two], ["progress"])
    check([two])


def test_the_mean_over_the_rounds_is_compared_where_both_were_evaluated(tmp_path):
    often = write_run(tmp_path / "a", replace(BASE, rounds=4), [0.0, 0.1, 0.2, 0.3, 0.4])
    seldom = write_run(tmp_path / "b", replace(BASE, rounds=4, init="x.pt"), [0.0, 0.1, 0.2, 0.3, 0.4])
    for row in seldom.history[1::2]:
        row["test_accuracy"] = None
    for one, other in ((often, seldom), (seldom, often)):
        assert summarise(group([one, other]), (0.3,))[1].mean_difference.mean == pytest.approx(0)
    half = write_run(
        tmp_path / "c", replace(BASE, rounds=4, local_epochs=1, init="y.pt"), often.values("test_accuracy")
    )
    assert summarise(group([often, half]), (0.3,))[1].mean_difference is None


def test_twice_the_rounds_of_half_the_epochs_are_the_same_budget(tmp_path):
    one = write_run(tmp_path / "a", replace(BASE, rounds=1, local_epochs=2), [0.1, 0.2])
    two = write_run(tmp_path / "b", replace(BASE, rounds=2, local_epochs=1), [0.1, 0.2, 0.3])
    check([one, two])


def test_a_report_is_not_written_into_a_run(tmp_path):
    (run,) = make(tmp_path, {"random": 0.3}, seeds=1)
    with pytest.raises(UserError, match="is the folder of a run: choose another --output"):
        ReportConfig((run.folder,), output=run.folder)
    assert ReportConfig((run.folder,), output=run.folder / "report").output


def test_the_page_needs_no_network_and_takes_any_name(tmp_path):
    runs = make(tmp_path, {"random": 0.3, "x/</script>$\\frac$.pt": 0.5, "x/\udcff.pt": 0.4})
    write(runs, tmp_path / "page", (), "a </title> $\\frac$", "c")
    text = (tmp_path / "page" / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert "@import" not in text
    assert text.count("</script>") == 2
    assert len(text) < 1_000_000
    assert "\\udcff" in (tmp_path / "page" / "summary.csv").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    ends = {"random": 0.3, "x/fps_r20.pt": 0.5, "x/an-encoder-with-quite-a-long-name-that-nobody-can-break.pt": 0.4}
    write(make(folder, ends), folder / "page", (), "cifar10, 10 clients, Dirichlet(0.1)", "python " + 40 * "-m x ")
    return folder / "page" / "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(chromium, page, width, scheme):
    chromium.assert_fits(page, width, scheme)
    assert chromium.evaluate("return document.querySelectorAll('#chart path.mean').length") == 3
    # Point at the middle of the curves: each arm's value of one round is shown.
    chromium.evaluate("""
        const svg = document.querySelector("#chart svg"), box = svg.getBoundingClientRect();
        const at = {clientX: box.left + box.width / 2, clientY: box.top + 50, bubbles: true};
        svg.dispatchEvent(new PointerEvent("pointermove", at));
    """)
    tip = chromium.evaluate("return document.querySelector('.tip').innerText")
    assert re.match(r"round \d+", tip)
    assert tip.count("%") == 9
    assert chromium.overflow() <= 0
    # Switch to the loss, and hide an arm.
    chromium.evaluate("document.querySelectorAll('#quantities button')[1].click()")
    chromium.evaluate("document.querySelectorAll('#legend button')[2].click()")
    assert chromium.evaluate("return document.querySelectorAll('#chart path.mean').length") == 2
    assert "%" not in chromium.evaluate("return document.querySelector('#chart svg').textContent")
    assert chromium.console() == []
