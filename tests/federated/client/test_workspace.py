"""The model that a process lends, and the precision it computes in."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from federated.client import workspace
from federated.config.run import RunConfig
from federated.data import sets as data
from federated.data.partition import make_partition

Tiny = Callable[..., RunConfig]


def build(config: RunConfig) -> workspace.Workspace:
    dataset = data.load(config)
    return workspace.Workspace.build(config, dataset, make_partition(config, dataset.train.labels, None))


def test_bfloat16_rounds_features_and_leaves_weights_and_outputs_in_32_bits(tiny: Tiny) -> None:
    exact, rounded = build(tiny()).model.eval(), build(tiny(precision="bf16")).model.eval()
    assert exact.state_dict().keys() == rounded.state_dict().keys()
    assert all(tensor.dtype != torch.bfloat16 for tensor in rounded.state_dict().values())
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, found = exact(images), rounded(images)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_copy_of_a_model_in_bfloat16_computes_with_its_own_weights(tiny: Tiny) -> None:
    """MOON copies models to keep the encoders of earlier rounds."""
    model = build(tiny(precision="bf16")).model.eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.get_submodule("encoder")(images).any()
    assert not other.get_submodule("encoder")(images).any()
