"""What the page says of how runs were made, and what it leaves out: old analyses, pictures twice, and old files."""

import base64
import html
import os
import re
import shlex
from dataclasses import replace

from experiments.report import page
from federated.config.run import RunConfig
from tests.experiments.runs import write_run

BASE = RunConfig(rounds=1)
ENDS = [0.1, 0.2]
INTERVALS = "This page holds 1 interval of 95%"


def arms(folder, **changes):
    """Two arms of one seed; ``changes`` are of the second."""
    one = write_run(folder / "one", BASE, ENDS)
    return [one, write_run(folder / "two", replace(BASE, **{"init": "x/fps.pt", **changes}), ENDS)]


def written(runs, output):
    page.write(runs, output, (0.5,), "title", "command")
    return html.unescape((output / "index.html").read_text())


def section(text, title):
    """What stands below a heading."""
    return text.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def test_a_clients_table_of_an_earlier_report_goes(tmp_path):
    at_clients = {1: (0.4, 0.1, 0.3)}
    written([write_run(tmp_path / "with", BASE, ENDS, at_clients=at_clients)], tmp_path / "page")
    assert (tmp_path / "page" / "clients.csv").is_file()
    written(arms(tmp_path), tmp_path / "page")
    assert not (tmp_path / "page" / "clients.csv").exists()


def test_an_analysis_that_is_older_than_the_last_run_is_left_out(tmp_path):
    runs = arms(tmp_path)
    folder = tmp_path / "page" / page.ANALYSES
    folder.mkdir(parents=True)
    for run, time in zip(runs, (1000, 2000), strict=True):
        os.utime(run.folder / "metrics.jsonl", (time, time))
    for name, time in (("drift", 1500), ("gap", 2500)):
        (folder / f"{name}.txt").write_text(f"what {name} found: [+1.0, +2.0]\n")
        os.utime(folder / f"{name}.txt", (time, time))
    (folder / "gap.png").write_bytes(b"picture of the gap")
    text = written(runs, tmp_path / "page")
    assert "what gap found" in section(text, "Analyses")
    assert base64.b64encode(b"picture of the gap").decode() in section(text, "Analyses")
    assert "what drift found" not in text
    assert INTERVALS in text, "that of drift does not count"


def test_the_intervals_of_fairness_are_those_of_the_arms(tmp_path):
    runs = arms(tmp_path)
    folder = tmp_path / "page" / page.ANALYSES
    folder.mkdir(parents=True)
    for name in ("fairness", "gap"):
        (folder / f"{name}.txt").write_text(f"{name}: [+1.0, +2.0]\n")
    text = written(runs, tmp_path / "page")
    assert "fairness: [+1.0" in section(text, "Analyses")
    assert INTERVALS in text


def test_what_runs_do_not_share_is_no_option_of_all(tmp_path):
    text = section(written(arms(tmp_path, lr=0.5, serve=8000), tmp_path / "page"), "What was run")
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert shown["rounds"] == "1"
    assert shown["momentum"] == str(BASE.momentum)
    assert not {"lr", "init", "seed", "serve", "output", "device"} & shown.keys()


def test_each_partition_is_shown_once_and_four_at_most(tmp_path):
    pictures = [b"a", b"b", b"a", b"c", b"d", b"e"]
    runs = []
    for number, content in enumerate(pictures):
        config = replace(BASE, init=f"x/{number}.pt")
        runs.append(write_run(tmp_path / str(number), config, ENDS))
        (runs[-1].folder / "partition.png").write_bytes(content)
    shown = re.findall(r"base64,([^\"]+)\"", section(written(runs, tmp_path / "page"), "Who holds what"))
    assert [base64.b64decode(content) for content in shown] == [b"a", b"b", b"c", b"d"]


def test_each_run_stands_with_the_machine_that_made_it(tmp_path):
    machines = [{"revision": "r1", "processor": "here"}, {"revision": "r1", "processor": "there"}]
    runs = []
    for seed, machine in enumerate([*machines, machines[0], None]):
        config = replace(BASE, seed=seed)
        runs.append(write_run(tmp_path / f"run{seed}", config, ENDS, environment=machine))
    text = section(written(runs, tmp_path / "page"), "Versions and machine")
    said = [(re.split("</p>", part)[0], re.findall("<dd>(.*?)</dd>", part)) for part in text.split('<p class="small">')]
    assert said[1:4] == [
        ("run0, run2:", ["r1", "here"]), ("run1:", ["r1", "there"]), ("run3: not recorded.", []),
    ]  # fmt: skip
    assert said[4][0] == "This page:"
    alone = section(written(runs[:1], tmp_path / "alone"), "Versions and machine")
    assert '<p class="small">All runs:</p>' in alone


def test_the_command_of_a_single_run_can_be_typed(tmp_path):
    runs = arms(tmp_path / "a folder; of 'mine'")
    text = section(written(runs, tmp_path / "page"), "What was run")
    lines = [line for line in re.split(r"\n|<code>", text) if line.startswith("python run_fl.py")]
    assert [shlex.split(line)[2:] for line in lines] == [
        ["--config", str(run.folder / "config.yaml")] for run in runs
    ]  # fmt: skip
