"""Nothing that a client sends is believed: whatever is not what was asked costs it the round, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.server.output.run_folder import read_history
from federated.server.replies import LONGEST_REASON, BadReply, Expected, read_sums
from federated.server.run import Diverged, run

MODEL = {
    "w": torch.ones(2, 3),
    "running_mean": torch.zeros(3),
    "running_var": torch.ones(3),
    "num_batches_tracked": torch.tensor(3),
}
PARAMETERS = frozenset({"w"})
EXPECTED = Expected(MODEL, PARAMETERS, (), ("train_loss", "train_accuracy"))
WITH_CONTROL = Expected(MODEL, PARAMETERS, ("control",), ("train_loss", "train_accuracy"))
METRICS: dict[str, Any] = {"num-examples": 3, "train_loss": 0.1, "train_accuracy": 0.5}
MOST = 10

Change = Callable[[RecordDict], None]


@pytest.fixture(autouse=True)
def _flower_knows_who_it_is() -> None:
    InProcessGrid(ClientApp(), 1)  # Message() reads it from there


def reply(content: RecordDict | Error) -> Message:
    return Message(content, reply_to=Message(RecordDict(), 2, "train"))


def good(control: bool = False) -> RecordDict:
    content = RecordDict({"arrays": ArrayRecord(MODEL), "metrics": MetricRecord(METRICS)})
    if control:
        content["control"] = ArrayRecord({"w": torch.zeros(2, 3)})
    return content


def metric(name: str, value: Any) -> Change:
    def change(content: RecordDict) -> None:
        content.metric_records["metrics"][name] = value

    return change


def without_metric(name: str) -> Change:
    return lambda content: content.metric_records["metrics"].pop(name)


def tensor(name: str, value: Tensor, record: str = "arrays") -> Change:
    def change(content: RecordDict) -> None:
        content.array_records[record][name] = Array(value.numpy())

    return change


def raw(name: str, **fields: Any) -> Change:
    """An array with some of its fields replaced: dtype, shape, stype or data."""

    def change(content: RecordDict) -> None:
        old = content.array_records["arrays"][name]
        kept = {"dtype": old.dtype, "shape": old.shape, "stype": old.stype, "data": old.data}
        content.array_records["arrays"][name] = Array(**{**kept, **fields})

    return change


def npy(array: np.ndarray) -> bytes:
    return Array(array).data


BAD: dict[str, tuple[Change, str]] = {
    "a whole number as a float": (metric("num-examples", 18.0), "whole number from 1 to 10"),
    "half an example": (metric("num-examples", 18.5), "whole number"),
    "a list of examples": (metric("num-examples", [3]), "whole number"),
    "no examples": (metric("num-examples", 0), "whole number"),
    "negative examples": (metric("num-examples", -1), "whole number"),
    "more examples than it has": (metric("num-examples", 11), "from 1 to 10"),
    "10**12 examples": (metric("num-examples", 10**12), "from 1 to 10"),
    "number of examples missing": (without_metric("num-examples"), "other metrics"),
    "train_loss missing": (without_metric("train_loss"), "other metrics"),
    "train_loss a list": (metric("train_loss", [0.1]), "train_loss that is not a finite number"),
    "train_loss nan": (metric("train_loss", float("nan")), "train_loss that is not a finite number"),
    "train_accuracy infinite": (metric("train_accuracy", float("inf")), "not a finite number"),
    "train_accuracy above 1": (metric("train_accuracy", 5.0), "train_accuracy of 5, which cannot be"),
    "a negative loss": (metric("train_loss", -1.0), "train_loss of -1, which cannot be"),
    "a loss beyond all bounds": (metric("train_loss", 1e300), "train_loss of 1e+300, which cannot be"),
    "an extra metric": (metric("bonus", 1.0), "other metrics"),
    "an extra metric record": (lambda c: c.__setitem__("more", MetricRecord({"x": 1})), "other records"),
    "a config record": (lambda c: c.__setitem__("config", ConfigRecord({"x": 1})), "other records"),
    "an extra array record": (lambda c: c.__setitem__("more", ArrayRecord(MODEL)), "other arrays"),
    "no arrays": (lambda c: c.__delitem__("arrays"), "other arrays"),
    "no metrics": (lambda c: c.__delitem__("metrics"), "other records"),
    "a name missing": (lambda c: c.array_records["arrays"].pop("w"), "w is missing"),
    "a buffer missing": (lambda c: c.array_records["arrays"].pop("running_var"), "running_var is missing"),
    "another name": (tensor("v", torch.ones(2, 3)), "names that are not the model's"),
    "another shape": (tensor("w", torch.ones(3, 2)), "w has another shape"),
    "one row": (tensor("w", torch.ones(3)), "w has another shape"),
    "a buffer of another shape": (tensor("running_mean", torch.ones(4)), "running_mean has another shape"),
    "int64 weights": (tensor("w", torch.ones(2, 3, dtype=torch.int64)), "w has another shape, type"),
    "bool weights": (tensor("w", torch.ones(2, 3, dtype=torch.bool)), "w has another shape, type"),
    "float64 weights": (tensor("w", torch.ones(2, 3, dtype=torch.float64)), "w has another shape, type"),
    "float16 weights": (tensor("w", torch.ones(2, 3).half()), "w has another shape, type"),
    "complex weights": (tensor("w", torch.ones(2, 3, dtype=torch.complex64)), "w has another shape, type"),
    "int64 statistics": (tensor("running_mean", torch.ones(3, dtype=torch.int64)), "running_mean has another"),
    "a float count": (tensor("num_batches_tracked", torch.tensor(3.0)), "num_batches_tracked has another"),
    "text": (raw("w", dtype="<U4", data=npy(np.array([["a"] * 3] * 2))), "w has another"),
    "objects": (raw("w", dtype="object"), "w has another"),
    "another shape than it says": (raw("w", shape=(3, 2)), "w has another"),
    "not NumPy's": (raw("w", stype="pickle"), "w has another"),
    "an unknown type": (raw("w", data=b"\x93NUMPY\x01\x00" + b"junk" * 30), "w has another"),
    "Fortran order": (raw("w", data=npy(np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))), "w has"),
    "too few bytes": (raw("w", data=npy(np.ones((2, 3), np.float32))[:-1]), "w has another shape, type or size"),
    "too many bytes": (raw("w", data=npy(np.ones((2, 3), np.float32)) + b"x"), "w has another shape, type or size"),
    "no bytes": (raw("w", data=b""), "w has another"),
    "not a number": (tensor("w", torch.full((2, 3), float("nan"))), "arrays that are not finite, w first"),
    "infinite": (tensor("running_var", torch.tensor([1.0, float("inf"), 1.0])), "not finite, running_var first"),
    "1e38": (tensor("w", torch.full((2, 3), 1e38)), "beyond 1e+15, w first"),
    "-1e38": (tensor("w", torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, -1e38]])), "beyond 1e+15, w first"),
    "a negative variance": (tensor("running_var", torch.tensor([1.0, -1.0, 1.0])), "negative variance"),
    "a negative count": (tensor("num_batches_tracked", torch.tensor(-1)), "negative count"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_was_not_asked_for_is_refused_with_a_reason(case: str) -> None:
    change, words = BAD[case]
    content = good()
    change(content)
    with pytest.raises(BadReply) as caught:
        EXPECTED.read(reply(content), MOST)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_beyond_all_bounds() -> None:
    content = good()
    metrics = content.metric_records["metrics"]
    try:
        metrics["num-examples"] = 10**400
    except (TypeError, ValueError, OverflowError):
        pytest.skip("Flower refuses it by itself")
    with pytest.raises(BadReply, match="whole number"):
        EXPECTED.read(reply(content), MOST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.__delitem__("control"), "other arrays than arrays, control"),
        (tensor("w", torch.ones(3, 2), "control"), "control of another model: w has another shape"),
        (tensor("more", torch.ones(1), "control"), "control of another model"),
        (tensor("w", torch.full((2, 3), float("inf")), "control"), "control that are not finite"),
    ],
)
def test_control_variates_are_checked_as_weights_are(change: Change, words: str) -> None:
    content = good(control=True)
    change(content)
    with pytest.raises(BadReply, match=words):
        WITH_CONTROL.read(reply(content), MOST)


def test_what_was_asked_for_is_read() -> None:
    update = WITH_CONTROL.read(reply(good(control=True)), MOST)
    assert update.num_examples == 3
    assert update.metrics == {"train_loss": 0.1, "train_accuracy": 0.5}
    assert {name: t.dtype for name, t in update.weights.items()} == {name: t.dtype for name, t in MODEL.items()}
    assert all(torch.equal(update.weights[name], tensor) for name, tensor in MODEL.items())
    assert torch.equal(update.extra["control"]["w"], torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Traceback\n  x\nValueError: no", "ValueError: no"),
        ("   \n \n", "no reason given"),
        ("", "no reason given"),
        ("\x1b[31mred\x07\x00 alert\u202e", r"\x1b[31mred\x07\x00 alert\u202e"),
        ("x" * 10_000, "x" * LONGEST_REASON),
    ],
)
def test_reasons_are_one_short_printable_line(reason: str, words: str) -> None:
    with pytest.raises(BadReply) as caught:
        EXPECTED.read(reply(Error(2, reason)), MOST)
    assert str(caught.value) == words


METRIC_VALUES = st.one_of(
    st.integers(-(2**62), 2**62), st.floats(), st.lists(st.floats(), max_size=3), st.lists(st.integers(), max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(
    metrics=st.dictionaries(st.sampled_from([*METRICS, "extra"]), METRIC_VALUES, max_size=4),
    data=st.binary(max_size=200),
    name=st.sampled_from(sorted(MODEL)),
    cut=st.integers(0, 300),
)
def test_anything_else_is_refused_too(metrics: dict[str, Any], data: bytes, name: str, cut: int) -> None:
    content = good()
    old = content.array_records["arrays"][name]
    try:
        content["metrics"] = MetricRecord({**METRICS, **metrics})
        content.array_records["arrays"][name] = Array(
            dtype=old.dtype, shape=old.shape, stype=old.stype, data=old.data[:cut] + data
        )
    except (TypeError, ValueError, OverflowError):
        return  # Flower refuses it by itself.
    try:
        update = EXPECTED.read(reply(content), MOST)
    except BadReply:
        return
    assert 1 <= update.num_examples <= MOST
    assert all(torch.isfinite(tensor).all() for tensor in update.weights.values())


class Lying(InProcessGrid):
    """Node 3 answers training messages with something else."""

    change: Change

    def handle(self, message: Message) -> Message:
        answer = super().handle(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 3:
            self.change(answer.content)
        return answer


@pytest.mark.parametrize(
    ("strategy", "change"),
    [
        ("fedavg", metric("num-examples", 10**9)),
        ("fedavg", tensor("head.bias", torch.ones(10, dtype=torch.int64))),
        ("krum", metric("num-examples", 18.5)),
        ("fedadam", without_metric("train_loss")),
        ("qfedavg", metric("initial_loss", -1.0)),
    ],
)
def test_a_run_goes_on_without_the_client(tiny: Callable[..., RunConfig], strategy: str, change: Change) -> None:
    grid = Lying(client_app, 6)
    grid.change = change
    history = run(tiny(strategy=strategy, clients=6, rounds=2), quiet=True, grid=grid).history
    assert [[failure["client"] for failure in row["failures"]] for row in history] == [[], [1], [1]]
    assert all(np.isfinite(row["test_loss"]) for row in history)


@pytest.mark.parametrize("steps", [0.0, 1e-300, 1e15])
def test_fednova_does_not_believe_in_steps_that_nobody_took(tiny: Callable[..., RunConfig], steps: float) -> None:
    grid = Lying(client_app, 6)
    grid.change = metric("effective_steps", steps)
    lied = run(tiny(strategy="fednova", clients=6, rounds=2), quiet=True, grid=grid).history
    assert all(not row["failures"] and row["test_loss"] < 10 for row in lied)


def test_a_round_whose_result_is_not_finite_is_not_kept(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(strategy="fedavgm", clients=3, rounds=2, server_lr=1e38)
    grid = Lying(client_app, 3)
    grid.change = tensor("head.bias", torch.full((10,), 1e14))
    with pytest.raises(Diverged, match="round 1 is not finite"):
        run(config, quiet=True, grid=grid)
    assert [row["round"] for row in read_history(config.folder)] == [0]


LIKE = {
    "bn1.sum": torch.zeros(2, dtype=torch.float64),
    "bn1.squares": torch.zeros(2, dtype=torch.float64),
    "bn1.count": torch.zeros((), dtype=torch.float64),
    "batches": torch.zeros((), dtype=torch.int64),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bn1.sum", [1e300, 0.0]),
        ("bn1.sum", [float("nan"), 0.0]),
        ("bn1.squares", [-1.0, 0.0]),
        ("bn1.squares", [1e300, 0.0]),
        ("bn1.count", -4.0),
        ("bn1.count", 1.0),
        ("bn1.count", 65.0),
        ("batches", -1),
    ],
)
def test_sums_that_cannot_be_are_refused(name: str, value: Any) -> None:
    sums = {"bn1.sum": [-3.0, 2.0], "bn1.squares": [9.0, 4.0], "bn1.count": 64.0, "batches": 1}

    def answer(**changed: Any) -> RecordDict:
        values = {**sums, **changed}
        tensors = {n: torch.tensor(values[n], dtype=like.dtype) for n, like in LIKE.items()}
        return RecordDict({"arrays": ArrayRecord(tensors)})

    assert read_sums(answer(), LIKE, most=64).keys() == LIKE.keys()
    with pytest.raises(BadReply, match=f"sent a {name} that cannot be"):
        read_sums(answer(**{name: value}), LIKE, most=64)
