"""What is said of a reply that cannot be used: in the log, and whether its client's training diverges."""

from __future__ import annotations

import pytest
from flwr.app import Error

from federated.server.replies import LONGEST_DETAILS, BadReply, DivergedReply, details_of
from tests.federated.server.test_replies import (
    EXPECTED,
    MOST,
    _flower_knows_who_it_is,
    good,
    metric,
    reply,
)

__all__ = ["_flower_knows_who_it_is"]  # the fixture


def test_the_log_has_an_errors_lines_as_they_can_be_printed_and_no_more_than_fit() -> None:
    traceback = "Traceback\n  File \x1b[2J\nValueError: no\u202e"
    lines = ["Traceback", r"File \x1b[2J", r"ValueError: no\u202e"]
    assert details_of(reply(Error(2, traceback))).split("\n") == lines
    assert details_of(reply(Error(2, "x" * 10**6))) == "x" * LONGEST_DETAILS


@pytest.mark.parametrize(("loss", "kind"), [(1e300, DivergedReply), (-1.0, BadReply)])
def test_a_loss_beyond_all_bounds_is_that_of_a_training_that_diverges(loss: float, kind: type[BadReply]) -> None:
    content = good()
    metric("train_loss", loss)(content)
    with pytest.raises(BadReply) as caught:
        EXPECTED.read(reply(content), MOST)
    assert type(caught.value) is kind
