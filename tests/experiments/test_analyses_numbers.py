"""What analyses say of histories and models that are made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.analyses import drift, encoders, fairness, gap, landscape, models, stability
from experiments.report.arms import centralise
from federated.client.batch_norm import model_structure
from federated.config.run import RunConfig
from federated.data import sets
from federated.server.output import client_models
from federated.weights import weights_of
from fps_pretrain.common.errors import UserError
from tests.experiments.runs import write_run

BASE = RunConfig(
    arch="resnet8", image_size=16, limit_train=120, limit_test=60, clients=3, partition="iid", rounds=1,
    local_epochs=1, batch_size=32, per_client_every=1, threads=1, precision="32",
)  # fmt: skip


@pytest.fixture
def keeps(tmp_path):
    """The folder of a run that keeps the models of three clients of rounds 1 and 2."""
    run = write_run(tmp_path / "run", replace(BASE, rounds=2), [0.1, 0.2, 0.3])
    start = weights_of(model_structure("resnet8", 1, "batch", 10))
    generator = torch.Generator().manual_seed(0)
    for number in (1, 2):
        updates = [
            {n: t + 0.1 * torch.randn(t.shape, generator=generator) if "conv" in n else t for n, t in start.items()}
            for _ in range(3)
        ]
        kept = client_models.ClientModels(number, [0, 1, 2], [10, 20, 30], start, updates, start)
        client_models.save(run.folder, kept)
    return run.folder


def test_drift_is_from_the_mean_by_examples(keeps):
    kept = client_models.load(keeps, 1)
    layer = "encoder.conv1"
    moved = [(update[f"{layer}.weight"] - kept.start[f"{layer}.weight"]).double() for update in kept.updates]
    server = sum(share * one for share, one in zip((1 / 6, 2 / 6, 3 / 6), moved, strict=True))
    found = dict(drift.measure(keeps))[1][layer]
    assert found.distance == pytest.approx(np.mean([float((one - server).norm()) for one in moved]))
    assert drift.Drift(0.5, 0.25, 0, 0, 0, 0).relative == 0.5


def test_random_combinations_are_drawn_anew_for_each_round_and_seed(keeps, monkeypatch):
    seen = []
    monkeypatch.setattr(models, "combine", lambda kept, weights: seen.append(tuple(weights)) or kept[0])
    for seed in (0, 0, 1):
        stability.measure(keeps, stability.StabilityConfig((keeps,), samples=2, limit=10, seed=seed))
    first, again, other = seen[:6], seen[6:12], seen[12:]
    assert first == again
    assert len({*first, *other}) == 1 + 2 * 2 * 2  # FedAvg's weights, and two of each round and seed
    assert all(sum(weights) == pytest.approx(1) for weights in seen)


def test_few_examples_of_a_data_set_are_drawn_at_random_and_always_the_same():
    whole, some, again = (models.Evaluator.of(BASE, limit).splits for limit in (None, 20, 20))
    test = sets.load(BASE).test
    for split in ("test", "train"):
        assert len(some[split][1]) == 20
        assert all(torch.equal(one, other) for one, other in zip(some[split], again[split], strict=True))
    assert len(whole["test"][1]) == 60
    assert some["test"][1].tolist() != test.labels[:20].tolist()
    position = [next(i for i, image in enumerate(test.images) if (image == mine.numpy()).all())
                for mine in some["test"][0]]  # fmt: skip
    assert some["test"][1].tolist() == test.labels[position].tolist()


def test_the_plane_is_measured_in_parameters_and_written_point_by_point(tmp_path, monkeypatch):
    class Flat:
        def with_statistics(self, weights):
            return weights

        def evaluate(self, weights, split="test"):
            return 1.0, 0.5

    rng = np.random.default_rng(0)
    made = [{"w": torch.tensor(rng.normal(size=4)), "bn.running_mean": torch.tensor([1e3 * i])} for i in range(3)]
    corners = landscape.plane(Flat(), made, 3).corners
    for one, other in ((0, 1), (0, 2), (1, 2)):
        distance = float((made[one]["w"] - made[other]["w"]).norm())
        assert np.linalg.norm(corners[one] - corners[other]) == pytest.approx(distance)

    folders = tuple(write_run(tmp_path / name, BASE, [0.1, 0.2]).folder for name in "abc")
    surface = landscape.Plane(np.array([0.0, 1.0]), np.array([10.0, 20.0]), np.array([[1.0, 2.0], [3.0, 4.0]]), corners)
    monkeypatch.setattr(models, "final_weights", lambda _: made[0])
    monkeypatch.setattr(models.Evaluator, "of", lambda *_: Flat())
    monkeypatch.setattr(landscape, "plane", lambda *_: surface)
    rows = landscape.analyse(landscape.LandscapeConfig(folders, points=3, grid=2)).rows
    points = [row[3:6] for row in rows if row[0] == "plane"]
    assert points == [(0.0, 10.0, 1.0), (1.0, 10.0, 2.0), (0.0, 20.0, 3.0), (1.0, 20.0, 4.0)]


def ends(folder, config, accuracy):
    return write_run(folder, config, [0.1, accuracy])


def test_encoders_need_the_same_seeds_and_one_rate_each(tmp_path):
    finals = {("random", 0): 0.3, ("random", 1): 0.4, ("a.pt", 0): 0.5, ("a.pt", 1): 0.5, ("b.pt", 0): 0.7}
    made = [
        ends(tmp_path / f"{init}{seed}", replace(BASE, init=init, seed=seed), end)
        for (init, seed), end in finals.items()
    ]
    last = ends(tmp_path / "b1", replace(BASE, init="b.pt", seed=1), 0.7)
    result = encoders.analyse(encoders.EncodersConfig(tuple(run.folder for run in [*made, last])))
    assert result.rows[0] == ("a", 0, 0.3, 0.5)
    assert result.rows[-1] == ("b", 1, 0.4, 0.7)
    # The encoders lead by 15 and 35 points, with the two seeds by 30 and 20.
    assert result.sentences[1].endswith("the encoders' standard deviation is 14.1 points, that of the seeds 7.1.")
    other_seed = ends(tmp_path / "b2", replace(BASE, init="b.pt", seed=2), 0.7)
    with pytest.raises(UserError, match=r"random has 0, 1, and .*b.* 0, 2"):
        encoders.finals([*made, other_seed])
    other_rates = [ends(tmp_path / f"c{seed}", replace(BASE, init="a.pt", lr=0.3, seed=seed), 0.6) for seed in (0, 1)]
    with pytest.raises(UserError, match="one learning rate for each"):
        encoders.finals([*made[:4], *other_rates])


def test_a_gap_has_one_run_of_each_kind_and_seed(tmp_path):
    made = [ends(tmp_path / name, config, 0.5) for name, config in (("f", BASE), ("c", centralise(BASE)))]
    alone = ends(tmp_path / "alone", replace(BASE, seed=1), 0.9)
    (found,) = gap.gaps([*made, alone])
    assert found.values == {0: 0.0}
    with pytest.raises(UserError, match="another run of this start, seed and kind"):
        gap.gaps([*made, made[0]])


def test_a_client_without_an_answer_is_left_out_and_one_seed_is_not_compared(tmp_path):
    made = []
    for init, values in (("random", [0.2, None, 0.4]), ("x.pt", [0.5, 0.5, 0.8])):
        run = write_run(tmp_path / init, replace(BASE, init=init), [0.1, 0.1], {1: (0.3, 0.1, 0.2)})
        text = (run.folder / "metrics.jsonl").read_text()
        (run.folder / "metrics.jsonl").write_text(text.replace("[0.3, 0.2]", str(values).replace("None", "null")))
        made.append(run.folder)
    result = fairness.analyse(fairness.FairnessConfig(tuple(made)))
    random, warm = result.sentences
    assert random == (
        "random: 30.0% on average over the clients, standard deviation 10.0 points, worst tenth 20.0% (1 seed)."
    )
    assert warm.startswith("x: 60.0% on average over the clients, standard deviation 14.1 points")
    assert "'s" not in warm
    lowest = [min(value for value in line.get_xdata() if np.isfinite(value)) for line in result.figure.axes[0].lines]
    assert lowest == pytest.approx([20, 50]), "the picture shows a client at 0% that was not measured"
