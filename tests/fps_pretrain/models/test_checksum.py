"""What two checksums tell apart, and what keeps tensors from being a model's."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checksum import as_weights, checksum, digest, is_intact, why_misfit, with_checksum

NUMBERS = torch.arange(6, dtype=torch.float32).view(2, 3)

CONTENTS: dict[str, dict[str, Any]] = {
    "first": {"a": NUMBERS, "b": {"c": 1, "d": [1, 2]}},
    "value of a tensor": {"a": NUMBERS + 1, "b": {"c": 1, "d": [1, 2]}},
    "type of a tensor, with the same bytes": {"a": NUMBERS.view(torch.int32), "b": {"c": 1, "d": [1, 2]}},
    "shape of a tensor": {"a": NUMBERS.view(3, 2), "b": {"c": 1, "d": [1, 2]}},
    "name of a tensor": {"e": NUMBERS, "b": {"c": 1, "d": [1, 2]}},
    "name within": {"a": NUMBERS, "b": {"e": 1, "d": [1, 2]}},
    "value within": {"a": NUMBERS, "b": {"c": 2, "d": [1, 2]}},
    "text of a number": {"a": NUMBERS, "b": {"c": "1", "d": [1, 2]}},
    "item": {"a": NUMBERS, "b": {"c": 1, "d": [1, 3]}},
    "depth of a name": {"a": NUMBERS, "b": {"c": 1}, "d": [1, 2]},
    "depth of an item": {"a": NUMBERS, "b": {"c": 1, "d": [1, [2]]}},
}


def test_every_part_of_a_content_is_in_its_checksum() -> None:
    found = {name: checksum(content) for name, content in CONTENTS.items()}
    assert len(set(found.values())) == len(CONTENTS)
    assert checksum({"a": NUMBERS.clone(), "b": OrderedDict(c=1, d=(1, 2))}) == found["first"]  # as torch.load has it


@pytest.mark.parametrize("name", CONTENTS)
def test_content_is_intact_as_long_as_nothing_is_changed(name: str) -> None:
    kept = with_checksum(CONTENTS["first"])
    assert is_intact(kept)
    assert is_intact(CONTENTS[name])  # an earlier version wrote no checksum
    assert is_intact(CONTENTS[name] | {"checksum": kept["checksum"]}) == (name == "first")


def test_a_digest_is_of_names_types_shapes_and_values_in_whatever_order() -> None:
    weights = {"a": NUMBERS, "b": NUMBERS[0]}
    others: list[dict[str, Tensor]] = [
        weights | {"a": NUMBERS + 1},
        weights | {"a": NUMBERS.view(torch.int32)},
        weights | {"a": NUMBERS.view(3, 2)},
        {"a": NUMBERS, "c": NUMBERS[0]},
        {"a": NUMBERS},
    ]
    assert len({digest(each) for each in (weights, *others)}) == 1 + len(others)
    assert digest({"b": NUMBERS[0], "a": NUMBERS.T.contiguous().T}) == digest(weights)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"a": NUMBERS + 1}, None),
        ({"a": NUMBERS, "b": NUMBERS}, "it has other tensors than the model"),
        ({}, "it has other tensors than the model"),
        (None, "it has other tensors than the model"),
        ({"a": 1}, "a is no plain tensor"),
        ({"a": NUMBERS.to_sparse()}, "a is no plain tensor"),
        ({"a": NUMBERS.double()}, "a is torch.float64 (2, 3), not torch.float32 (2, 3)"),
        ({"a": NUMBERS.view(3, 2)}, "a is torch.float32 (3, 2), not torch.float32 (2, 3)"),
        ({"a": NUMBERS / 0}, "a has values that are not finite"),
    ],
)
def test_tensors_that_are_not_a_models_are_named(found: Any, words: str | None) -> None:
    assert why_misfit(found, {"a": NUMBERS}) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e15, None),
        (-1e15, None),
        (2e15, "beyond 1e"),
        (-2e15, "beyond 1e"),
        (1e300, "not finite"),
        (1e400, "not finite"),
    ],
)
def test_weights_have_a_range(value: float, words: str | None) -> None:
    tensor = torch.tensor([0.0, value], dtype=torch.float64)
    if words is None:
        assert as_weights("file", "a", tensor, NUMBERS).dtype == torch.float32
    else:
        with pytest.raises(UserError, match=f"^file holds values .*{words}"):
            as_weights("file", "a", tensor, NUMBERS)
