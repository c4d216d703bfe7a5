"""What a value of a curve is the accuracy of: validation images, and rounds after training has begun."""

from dataclasses import replace
from statistics import fmean

import pytest

from experiments.learning_curve.measure import classify_frozen, federate
from experiments.learning_curve.values import Value, read_table, write_table
from federated.data import sets
from federated.server.output.history import read_history
from federated.server.start.initialise import initial_encoder
from fps_pretrain.common.errors import UserError
from fps_pretrain.probing.probe import extract_features, knn_accuracy
from tests.experiments.test_curve import FEDERATION


def test_a_federation_counts_with_its_end_and_the_mean_of_its_rounds(tmp_path):
    found = federate(replace(FEDERATION, output=tmp_path / "run", rounds=3, eval_every=2))
    accuracies = {row["round"]: row["val_accuracy"] for row in read_history(tmp_path / "run")}
    assert [round_ for round_, accuracy in accuracies.items() if accuracy is not None] == [0, 2, 3]
    assert accuracies[0] != accuracies[3]
    assert found == {
        "federation": accuracies[3], "federation_mean": pytest.approx(fmean((accuracies[2], accuracies[3])))
    }  # fmt: skip


def test_frozen_features_are_judged_on_validation_images():
    data = sets.load(FEDERATION)
    found = classify_frozen(FEDERATION, ("knn", "linear"), replace(data, test=None))
    train, validation = (
        extract_features(initial_encoder(FEDERATION)[0], p.images) for p in (data.train, data.validation)
    )
    assert found["knn"] == knn_accuracy(train, data.train.labels, validation, data.validation.labels)
    assert found["knn"] != knn_accuracy(train, data.train.labels, train, data.train.labels)
    assert 0.1 < found["linear"] < 1
    assert classify_frozen(FEDERATION, ("linear",), data) == {"linear": found["linear"]}


@pytest.mark.parametrize(
    "changes", [{"accuracy": 1.5}, {"accuracy": -0.1}, {"measure": "guess"}, {"pairs": -1}, {"lr": float("inf")}]
)
def test_a_value_that_cannot_be_is_refused(tmp_path, changes):
    good = Value("a", 1, "a.pt", "0" * 64, "knn", -1, 0.0, 0.5)
    write_table(tmp_path / "curve.csv", [good, replace(good, **changes)])
    with pytest.raises(UserError, match="line 3 is not a table"):
        read_table(tmp_path / "curve.csv")
