"""What stands side by side is what its names say, and what cannot be compared is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments import compare
from experiments.analyses import convergence, drift, gap, landscape
from experiments.comparison import running
from experiments.comparison.tuning import record
from experiments.report import comparable, page
from experiments.report.arms import centralise, group
from experiments.report.summary import summarise
from experiments.report.text_tables import read
from federated.config.run import RunConfig
from federated.server import run as rounds
from federated.server.output.run_folder import RunFolder
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.experiments.runs import TINY, write_run

BASE = RunConfig(rounds=2, clients=4, partition="iid", local_epochs=1)


def test_centralised_arms_of_several_budgets_have_names_of_their_own(tmp_path):
    federated = [BASE, replace(BASE, local_epochs=2)]
    configs = [*federated, *(centralise(config) for config in federated)]
    labels = [arm.label for arm in group([write_run(tmp_path / str(n), c, [0.1]) for n, c in enumerate(configs)])]
    assert labels[2:] == ["local-epochs 1, centralised", "local-epochs 2, centralised"]


def test_a_baseline_whose_first_run_failed_is_still_the_baseline(tmp_path, monkeypatch):
    config = compare.CompareConfig(inits=("random", "x/fps.pt"), seeds=(0, 1), run=replace(BASE, output=tmp_path / "c"))
    planned = list(config.runs({}))
    done = [write_run(run.folder, run, [0.1, 0.2, 0.3]) for run in planned[1:]]
    shown = []
    monkeypatch.setattr(compare, "write", lambda runs, *args, **_: shown.extend(runs) or summarise(group(runs), (0.5,)))
    compare._report(config, done)
    assert [run.config.init for run in shown] == ["random", "x/fps.pt", "x/fps.pt"]


def test_centralised_arms_come_after_all_others(tmp_path, monkeypatch):
    """Where all of the baseline's runs failed, the next start's federation takes its place."""
    config = compare.CompareConfig(
        inits=("random", "x/fps.pt"), seeds=(0,), centralised=True, run=replace(BASE, output=tmp_path / "c")
    )
    done = [write_run(run.folder, run, [0.1, 0.2, 0.3]) for run in list(config.runs({}))[1:]]
    shown = []
    monkeypatch.setattr(compare, "write", lambda runs, *args, **_: shown.extend(runs) or summarise(group(runs), (0.5,)))
    compare._report(config, done[::-1])
    assert [(run.config.init, run.config.clients) for run in shown] == [("x/fps.pt", 4), ("random", 1), ("x/fps.pt", 1)]


def test_what_is_said_of_a_page_counts_the_intervals_of_its_analyses(tmp_path, capsys):
    run = write_run(tmp_path / "a", BASE, [0.1, 0.2, 0.3])
    analyses = tmp_path / "page" / page.ANALYSES
    analyses.mkdir(parents=True)
    (analyses / "gap.txt").write_text("random: a gap of +20.0 points [+10.0, +30.0], 3 seeds.\n")
    page.say(summarise(group([run]), (0.2,)), tmp_path / "page", [run])
    assert "This page holds 1 interval of 95%" in capsys.readouterr().err


def test_rates_of_two_files_of_one_name_are_kept_apart(tmp_path):
    tried = [
        write_run(tmp_path / f"{where}{lr}", replace(BASE, init=f"{where}/enc.pt", lr=lr), [0.1, 0.2, end])
        for where, lr, end in (("a", 0.1, 0.3), ("a", 0.2, 0.4), ("b", 0.1, 0.6), ("b", 0.2, 0.5))
    ]
    record(tmp_path, tried, {"a/enc.pt": 0.2, "b/enc.pt": 0.1})
    (found,) = read([tmp_path / "tuning.csv"])
    assert found.rows == (("a/enc.pt", "30.0%", "40.0% ✓"), ("b/enc.pt", "60.0% ✓", "50.0%"))


def test_a_table_takes_an_arm_that_has_no_clients(tmp_path):
    tuned = replace(BASE, fine_tune_epochs=1)
    runs = [
        write_run(tmp_path / "f", tuned, [0.1, 0.2, 0.3], {2: (0.5, 0.1, 0.4)}, tuned={2: (0.6, 0.1, 0.5)}),
        write_run(tmp_path / "c", centralise(tuned), [0.1, 0.2, 0.4]),
    ]
    page.write(runs, tmp_path / "page", (), "t", "c")
    (found,) = read([tmp_path / "page"])
    assert found.rows[1][-3:] == ("", "", "")


def test_a_target_that_stands_twice_counts_once(tmp_path):
    runs = [write_run(tmp_path / str(s), replace(BASE, seed=s), [0.1, 0.2, end]) for s, end in enumerate((0.5, 0.3))]
    folders = tuple(run.folder for run in runs)
    (said,) = convergence.analyse(convergence.ConvergenceConfig(folders, targets=(0.4, 0.4))).sentences
    assert said == "random reaches 40.0% in only 1 of its 2 runs (means over 2 seeds)."


def test_rounds_of_one_length_are_compared_however_many_there_are(tmp_path):
    base = replace(BASE, clients=10, participation=0.1)
    runs = [
        write_run(tmp_path / str(rounds), replace(base, init=f"{rounds}.pt", rounds=rounds), [0.1] * (rounds + 1))
        for rounds in (7, 10)
    ]
    assert summarise(group(runs), (0.5,))[1].mean_difference is not None


@pytest.mark.filterwarnings("error")
def test_before_the_first_round_there_is_no_mean_over_rounds(tmp_path):
    (only,) = page.write([write_run(tmp_path / "a", BASE, [0.1])], tmp_path / "page", (), "t", "c")
    assert np.isnan(only.mean_over_rounds)
    assert ">nan<" not in (tmp_path / "page" / "index.html").read_text()


def test_an_arm_has_its_runs_by_seed_and_all_are_measured_alike(tmp_path):
    runs = [
        write_run(tmp_path / str(seed), replace(BASE, seed=seed), [0.1, 0.2, 0.3], {2: (0.3, 0.1, 0.2)})
        for seed in (2, 0, 1)
    ]
    (arm,) = group(runs)
    assert arm.seeds == [0, 1, 2]
    twice = {1: (0.3, 0.1, 0.2), 2: (0.3, 0.1, 0.2)}
    other = write_run(tmp_path / "twice", replace(BASE, seed=3), [0.1, 0.2, 0.3], twice)
    with pytest.raises(UserError, match="have different rounds"):
        group([*runs, other])


def test_one_client_is_all_that_a_centralised_run_can_ask_for():
    assert centralise(replace(BASE, min_clients=3)).min_clients == 1


def test_a_gap_is_that_of_one_model(tmp_path):
    runs = [
        write_run(tmp_path / "f", BASE, [0.1, 0.2, 0.3]),
        write_run(tmp_path / "c", replace(centralise(BASE), arch="resnet56"), [0.1, 0.2, 0.5]),
    ]
    with pytest.raises(UserError, match="differ in arch"):
        gap.gaps(runs)


def test_gaps_of_two_files_of_one_name_are_told_apart(tmp_path):
    runs = [
        write_run(tmp_path / f"{where}{kind.clients}", kind, [0.1, 0.2, 0.3])
        for where in "ab"
        for kind in (replace(BASE, init=f"{where}/e.pt"), centralise(replace(BASE, init=f"{where}/e.pt")))
    ]
    assert [one.name for one in gap.gaps(runs)] == ["a/e.pt", "b/e.pt"]


@pytest.mark.parametrize("other", [{"dataset": "cifar10"}, {"image_size": 16}, {"personal": "head"}])
def test_no_line_is_drawn_between_models_of_other_data(tmp_path, monkeypatch, other):
    from experiments.analyses import models

    monkeypatch.setattr(models, "final_weights", lambda run: {})
    runs = [
        write_run(tmp_path / name, config, [0.1, 0.2, 0.3]).folder
        for name, config in (("one", BASE), ("other", replace(BASE, **other)))
    ]
    with pytest.raises(UserError, match="compare runs of one data set"):
        landscape.analyse(landscape.LandscapeConfig(tuple(runs)))


def test_finished_runs_of_another_encoder_or_other_data_do_not_stand_beside_new_ones(tmp_path, monkeypatch):
    encoder = tmp_path / "enc.pt"
    save_encoder(encoder, build_encoder("resnet8", seed=5), "resnet8", 1, {})
    flags = [*TINY, "--threads", "1", "--inits", str(encoder), "--output", str(tmp_path / "c")]
    assert compare.main(compare.parse([*flags, "--seeds", "0"])) == 0
    more = list(compare.parse([*flags, "--seeds", "0", "1"]).runs({}))
    running.check_begun(more, data=True)
    with monkeypatch.context() as patch:
        patch.setattr("federated.data.sets.load", lambda run: SimpleNamespace(digest=lambda: "other"))
        running.check_begun(more[:1], data=True)  # nothing is left to do
        with pytest.raises(UserError, match="began on other data"):
            running.check_begun(more, data=True)
    save_encoder(encoder, build_encoder("resnet8", seed=6), "resnet8", 1, {})
    with pytest.raises(UserError, match=r"began from other weights than .*enc\.pt holds now"):
        compare.main(compare.parse([*flags, "--seeds", "0", "1", "--jobs", "2"]))


def test_data_are_read_once_for_each_partition_since_who_made_them_may_be_part_of_them(tmp_path, monkeypatch):
    """A centralised run beside clients by who made the examples is of other data than they are."""
    runs = list(compare.parse([*TINY, "--inits", "random", "--output", str(tmp_path / "c")]).runs({}))[:2]
    runs += [replace(run, partition="shards", output=tmp_path / f"shards{run.seed}") for run in runs]
    for run in runs[::2]:
        rounds.run(run, quiet=True)
    load_state, loaded = RunFolder.load_state, []
    monkeypatch.setattr(
        RunFolder, "load_state", lambda folder: replace(load_state(folder), data_digest=folder.config().partition)
    )
    monkeypatch.setattr(
        "federated.data.sets.load",
        lambda run: loaded.append(run.partition) or SimpleNamespace(digest=lambda: loaded[-1]),
    )
    running.check_begun([*runs, *runs], data=True)
    assert loaded == ["iid", "shards"]


def test_data_are_compared_by_what_they_hold(tmp_path):
    def run(name, dataset, data):
        return write_run(tmp_path / name, replace(BASE, dataset=dataset), [0.1, 0.2, 0.3], data=data)

    first = run("a", "folder:/there", "a" * 64)
    moved, changed, unknown = (
        run("b", "folder:/here", "a" * 64),
        run("c", "folder:/there", "b" * 64),
        run("d", "digits", ""),
    )
    comparable.check([first, moved])
    with pytest.raises(
        UserError, match=r"different data are not compared: .*a has images and labels of SHA-256 aaaa.*bbbb"
    ):
        comparable.check([first, changed])
    comparable.check([first, changed], allowed=["data"])
    with pytest.raises(UserError, match=r"folder:/there, .* and .* dataset digits"):
        comparable.check([first, unknown])


def test_who_made_an_image_does_not_part_runs_by_it_from_others(tmp_path):
    people = {"partition": "natural", "id_column": "who", "dataset": "parquet:/there"}
    runs = [
        write_run(tmp_path / "a", replace(BASE, **people), [0.1, 0.2, 0.3], data="a" * 64),
        write_run(tmp_path / "b", replace(BASE, dataset="parquet:/there"), [0.1, 0.2, 0.3], data="b" * 64),
    ]
    comparable.check(runs)


def test_runs_that_do_not_say_their_revision_count_as_of_any(tmp_path, monkeypatch):
    known = {"environment": {"revision": "a"}}
    runs = [
        write_run(tmp_path / name, replace(BASE, init=f"x/{name}.pt"), [0.1, 0.2, 0.3], **environment)
        for name, environment in (("a", known), ("b", {}), ("c", known))
    ]
    comparable.check(runs)
    monkeypatch.setattr(comparable.environment, "revision", lambda: "b")
    comparable.check_revisions([runs[1].folder, tmp_path / "to come"])
    with pytest.raises(UserError, match=r"a was made by revision a, and this is b: .*--allow-different revision"):
        comparable.check_revisions([run.folder for run in runs])
    comparable.check_revisions([run.folder for run in runs], ["revision"])


def test_a_round_with_one_client_says_nothing_of_angles_between_clients():
    several = drift.drift(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, 0.5]))
    alone = drift.drift(torch.tensor([[2.0, 0.0]]), torch.tensor([1.0]))
    both = drift._sentence(Path("r"), [(1, {drift.ALL: several}), (2, {drift.ALL: alone})])
    assert "its cosine to the server's is 0.85, to another client's 0.00; gradient diversity 1.00 (2 rounds)" in both
    assert "its cosine to the server's is 1.00; gradient" in drift._sentence(Path("r"), [(2, {drift.ALL: alone})])
