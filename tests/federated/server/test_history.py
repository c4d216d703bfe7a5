"""A metrics.jsonl whose lines are no rounds is refused, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from federated.server.output.history import read_history
from fps_pretrain.common.errors import UserError

GOOD = '{"round": 1, "test_loss": null, "client_accuracies": [0.5, null], "fine_tuned_accuracies": [null, 1]}'


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1]", "it is no mapping"),
        ("{}", "it names no round"),
        ('{"round": -1}', "it names no round"),
        ('{"round": true}', "it names no round"),
        ('{"round": 1.0}', "it names no round"),
        ('{"round": 2147483648}', "it names no round"),
        ('{"round": 1, "test_loss": "low"}', "test_loss is no finite number"),
        ('{"round": 1, "val_accuracy": NaN}', "val_accuracy is no finite number"),
        ('{"round": 1, "client_accuracy_mean": [0.5]}', "client_accuracy_mean is no finite number"),
        ('{"round": 1, "seconds": 1' + "0" * 400 + "}", "seconds is no finite number"),
        ('{"round": 1, "client_accuracies": 0.5}', "client_accuracies is no list of finite numbers"),
        ('{"round": 1, "client_accuracies": ["a"]}', "client_accuracies is no list of finite numbers"),
        ('{"round": 1, "fine_tuned_accuracies": [0.5]}', "fine_tuned_accuracies are not those of client_accuracies"),
        (
            '{"round": 1, "client_accuracies": [0.5, 0.5], "fine_tuned_accuracies": [0.5]}',
            "fine_tuned_accuracies are not those of client_accuracies",
        ),
    ],
)
def test_a_line_that_is_no_round_is_refused_also_as_the_last(tmp_path: Path, line: str, why: str) -> None:
    for after in ("", '{"round": 2}\n'):
        (tmp_path / "metrics.jsonl").write_text(f'{{"round": 0}}\n{line}\n{after}')
        with pytest.raises(UserError, match=rf"metrics\.jsonl is damaged in line 2: {why}"):
            read_history(tmp_path)


def test_what_was_not_measured_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"round": 0}}\n{GOOD}\n')
    assert [row.get("client_accuracies") for row in read_history(tmp_path)] == [None, [0.5, None]]
