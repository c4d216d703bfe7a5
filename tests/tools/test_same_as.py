"""The comparison of two revisions sees what differs, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tools.same_as.cases import CASES, COMPARABLE, MENDED
from tests.tools.same_as.compare import examples_only, first_difference, parameters_only, read_outcome


def outcome() -> dict[str, Any]:
    return {
        "weights a": torch.tensor([[1.0, float("nan")], [0.0, 2.0]]),
        "weights a.num_batches_tracked": torch.tensor(3),
        "partition indices": np.array([3, 1, 2]),
        "partition ends": np.array([1, 3]),
        "row 0": {"test_loss": 2.0, "clients": {"client": []}},
        "row 1": {"test_loss": 0.5, "clients": {"client": [0, 1]}, "failures": []},
    }


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**outcome(), name: value}


def flipped_bit() -> torch.Tensor:
    tensor = outcome()["weights a"]
    tensor.view(torch.int32)[1, 1] ^= 1
    return tensor


def test_the_same_is_no_difference() -> None:
    assert first_difference(outcome(), outcome()) is None
    assert first_difference(torch.zeros(0), torch.zeros(0)) is None


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (changed("weights a", flipped_bit()), r"weights a: 1 of 4 entries, \[3\] 2.0, now 2.00000"),
        (changed("weights a", -outcome()["weights a"]), "weights a: 4 of 4 entries"),
        (changed("weights a", outcome()["weights a"].double()), r"weights a: torch.float32 .*, now torch.float64"),
        (changed("weights a", outcome()["weights a"].view(4)), r"\(2, 2\), now torch.float32 \(4,\)"),
        (changed("weights a.num_batches_tracked", torch.tensor(4)), r"1 of 1 entries, \[0\] 3, now 4"),
        (changed("weights b", torch.zeros(1)), "^added: weights b"),
        ({k: v for k, v in outcome().items() if k != "weights a"}, "^missing: weights a"),
        (changed("partition indices", np.array([3, 1, 4])), r"partition indices: 1 of 3 entries, \[2\] 2, now 4"),
        (changed("partition indices", np.array([3, 1, 2], np.int32)), "int64 .* int32"),
        (changed("row 0", {"test_loss": 2, "clients": {"client": []}}), "row 0 test_loss: float, now int"),
        (changed("row 0", {"test_loss": 2.0, "clients": {"client": [1]}}), "row 0 clients client: 0 values, now 1"),
        (changed("row 0", {"clients": {"client": []}}), "row 0 missing: test_loss"),
    ],
)
def test_a_difference_is_seen(new: dict[str, Any], words: str) -> None:
    found = first_difference(outcome(), new)
    assert found is not None
    assert re.search(words, found), found


def test_what_can_be_compared_beside_a_mended_defect() -> None:
    other = changed("weights a.num_batches_tracked", torch.tensor(4))
    other["row 1"] = {**other["row 1"], "test_loss": 0.6}
    assert first_difference(parameters_only(outcome()), parameters_only(other)) is None
    assert first_difference(parameters_only(outcome()), parameters_only(changed("weights a", flipped_bit())))
    other["row 1"]["clients"] = {"client": [0, 2]}
    assert first_difference(parameters_only(outcome()), parameters_only(other))

    other = changed("partition indices", np.array([1, 2, 3]))
    assert first_difference(examples_only(outcome()), examples_only(other)) is None
    assert first_difference(examples_only(outcome()), examples_only(changed("partition indices", np.array([1, 2, 2]))))


def test_outcome_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to compare"):
        read_outcome(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"arch": "resnet20", "state_dict": {"a": torch.ones(1)}}, run / "model.pt")
    (run / "metrics.jsonl").write_text(json.dumps({"round": 0, "test_loss": 1.5, "seconds": 3.0}) + "\n")
    np.savez(run / "partition.npz", ends=np.array([1]))
    expected = {
        "model.pt arch": "resnet20",
        "weights a": torch.ones(1),
        "row 0": {"round": 0, "test_loss": 1.5},
        "partition ends": np.array([1]),
    }
    assert first_difference(expected, read_outcome(tmp_path)) is None


def test_cases() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(MENDED) == set(COMPARABLE) <= set(names)
