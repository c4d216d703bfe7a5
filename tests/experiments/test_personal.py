"""Comparisons of runs whose clients keep their heads, freeze the encoder, or fine-tune the global model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from experiments.analyses import convergence, drift, every, fairness, gap, stability
from experiments.analyses.models import Evaluator, final_weights
from experiments.compare import CompareConfig
from experiments.report import page as report
from experiments.report.arms import centralise
from experiments.report.runs import read_run
from federated.client.evaluation import evaluate
from federated.config.run import RunConfig
from federated.server import run as rounds
from fps_pretrain.common.errors import UserError
from tests.experiments.runs import table, write_run

TINY = RunConfig(
    dataset="digits", image_size=8, limit_train=60, limit_test=30, clients=3, partition="iid", rounds=2,
    local_epochs=1, batch_size=16, threads=1, keep_clients_every=1, validation=0.0, precision="32",
)  # fmt: skip


def write_personal(tmp_path, **fields):
    made = []
    for seed in (0, 1):
        for init, end in (("random", 0.5), ("x/fps_r20.pt", 0.7 + seed / 10)):
            config = RunConfig(rounds=2, personal="head", seed=seed, init=init, **fields)
            at_clients = {0: (0.1, 0.0, 0.1), 1: (end - 0.2, 0.1, 0.2), 2: (end, 0.1, 0.3)}
            made.append(write_run(tmp_path / f"{init[-1]}{seed}", config, [0.1, 0.1, 0.1], at_clients))
    return made


def test_arms_with_heads_of_their_own_are_compared_at_the_clients(tmp_path):
    random, fps = report.write(write_personal(tmp_path), tmp_path / "out", (0.45,), "t", "c")
    assert (random.final, fps.final) == pytest.approx((0.5, 0.75))
    assert fps.mean_over_rounds == pytest.approx((0.5 + 0.7 + 0.6 + 0.8) / 4)
    assert fps.rounds_to == {0.45: [1, 1]}
    assert fps.difference.mean == pytest.approx(0.25)
    page = (tmp_path / "out" / "index.html").read_text()
    for words in ("Accuracy at the clients, which keep their own heads", "not accuracies on the test set"):
        assert words in page
    assert "Accuracy on the test set" not in page
    assert '"title": "test accuracy"' not in page, "the curve of a head that nobody trained"
    assert {row["measure"] for row in table(tmp_path / "out" / "summary.csv")} == {random.measure}
    assert (tmp_path / "out" / "curves.png").is_file()


def test_only_the_last_round_may_be_measured_at_the_clients(tmp_path):
    run = write_run(tmp_path / "a", RunConfig(rounds=2, personal="head"), [0.1] * 3, {2: (0.5, 0.1, 0.3)})
    (only,) = report.write([run], tmp_path / "out", (), "t", "c")
    assert only.final == only.mean_over_rounds == 0.5
    assert (
        "ends at 50.0% accuracy at the clients, which keep their own heads, 1 seed."
        in (tmp_path / "out" / "index.html").read_text()
    )


def test_a_run_that_was_not_measured_at_its_clients_cannot_stand_beside_personal_ones(tmp_path):
    other = write_run(tmp_path / "other", RunConfig(rounds=2), [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"was not evaluated at its clients.*run it with --per-client-every"):
        report.write([*write_personal(tmp_path), other], tmp_path / "out", (), "t", "c")


def test_accuracy_after_fine_tuning_stands_beside_that_before(tmp_path):
    made = []
    for seed in (0, 1):
        for init, end in (("random", 0.4), ("x/fps_r20.pt", 0.6 + seed / 10)):
            config = RunConfig(rounds=1, fine_tune_epochs=2, seed=seed, init=init)
            tuned = {1: (end + 0.1, 0.05, end)}
            made.append(
                write_run(tmp_path / f"{init[-1]}{seed}", config, [0.1, 0.5], {1: (end, 0.1, 0.3)}, tuned=tuned)
            )
    random, fps = report.write(made, tmp_path / "out", (), "t", "c")
    assert (fps.clients.tuned.mean, fps.clients.tuned.worst_tenth) == pytest.approx((0.75, 0.65))
    # The two clients gain 0.1 and 0.3 with one seed, 0.1 and 0.4 with the other; then the first no longer answers.
    assert fps.clients.tuned.gain == pytest.approx((0.2 + 0.25) / 2)
    for run in made:
        run.history[-1]["fine_tuned_accuracies"][0] = None
    assert report.write(made, tmp_path / "less", (), "t", "c")[1].clients.tuned.gain == pytest.approx(0.35)
    made = [read_run(run.folder) for run in made]
    assert random.clients.tuned.difference is None
    assert fps.clients.tuned.difference.mean == pytest.approx(0.25)
    assert len(fps.intervals) == 4
    row = table(tmp_path / "out" / "summary.csv")[1]
    assert (float(row["fine_tuned_mean"]), float(row["fine_tuned_difference"])) == pytest.approx((0.75, 0.25))
    clients = table(tmp_path / "out" / "clients.csv")
    assert len(clients) == 4 * 2
    assert clients[2] == {
        "arm": "random", "seed": "1", "round": "1", "client": "0", "accuracy": "0.4", "fine_tuned_accuracy": "0.5",
    }  # fmt: skip
    assert table(tmp_path / "out" / "rounds.csv")[1]["fine_tuned_accuracy_mean"] == "0.5"
    page = (tmp_path / "out" / "index.html").read_text()
    for words in ("fine-tuned, mean", "75.0%", "clients.csv", "mean of the clients, fine-tuned"):
        assert words in page
    found = fairness.analyse(fairness.FairnessConfig(tuple(run.folder for run in made)))
    assert found.rows[0] == ("random", 0, 0, 0.4, 0.5)
    assert "after fine-tuning 70.0% on average" in found.sentences[1]


def test_nothing_that_takes_a_model_for_the_test_set_is_compared():
    personal = RunConfig(personal="head")
    with pytest.raises(UserError, match="--centralised goes with"):
        centralise(personal)
    with pytest.raises(UserError, match="--lrs does not go with --personal head"):
        CompareConfig(lrs=(0.1, 0.2), run=personal)
    assert centralise(RunConfig(fine_tune_epochs=3)).fine_tune_epochs == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for name, fields in {"head": {"train": "head"}, "personal": {"personal": "head"}}.items():
        made[name] = root / name
        rounds.run(replace(TINY, output=made[name], **fields), quiet=True)
    return made


def test_bytes_are_those_of_what_is_sent(folders):
    run = read_run(folders["head"])
    sizes = convergence.message_sizes(run)
    size, once = sizes.down, sizes.once
    assert size == sizes.up == 4 * (64 * 10 + 10)
    assert size + once == sum(t.numel() * t.element_size() for t in final_weights(folders["head"]).values())
    sent = convergence.traffic(run, sizes)
    assert sent == {0: 0, 1: 3 * (2 * size + once), 2: 3 * (4 * size + once)}


def test_bytes_are_counted_for_who_was_asked_and_who_answered():
    history = [
        {"round": 0},
        {"round": 1, "participants": [0, 1], "failures": [{"client": 1, "reason": "no"}]},
        {"round": 2, "participants": [1, 2], "failures": []},
    ]
    first = 2 * 10 + 5 + 2 * 7  # two get the model and what comes once, one sends its own back
    sizes = convergence.MessageSizes(down=10, up=5, once=7)
    assert convergence.traffic(SimpleNamespace(history=history), sizes) == {0: 0, 1: first, 2: first + 2 * 15 + 7}


def test_what_is_not_sent_does_not_drift(folders):
    ((_, layers), _) = drift.measure(folders["head"])
    assert set(layers) == {"head", drift.ALL}
    ((_, layers), _) = drift.measure(folders["personal"])
    assert "head" not in layers


def test_a_frozen_encoder_is_judged_with_its_own_statistics(folders):
    evaluator = Evaluator.of(replace(TINY, train="head"))
    weights = final_weights(folders["head"])
    assert all(tensor.equal(weights[name]) for name, tensor in evaluator.with_statistics(weights).items())
    accuracy = evaluate(evaluator.model, weights, *evaluator.splits["test"], 256)[1]
    assert accuracy == read_run(folders["head"]).history[-1]["test_accuracy"]


def test_analyses_of_models_leave_personal_runs_out(folders, tmp_path, capsys):
    for refused in (
        lambda: stability.analyse(stability.StabilityConfig((folders["personal"],))),
        lambda: gap.analyse(gap.GapConfig((folders["personal"],))),
    ):
        with pytest.raises(UserError, match="--personal head have no model for the test set"):
            refused()
    every.run_all([folders["personal"]], tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").glob("*.txt")} == {"convergence", "fairness", "drift"}
    assert "left out: gap: runs with --personal head" in capsys.readouterr().err
