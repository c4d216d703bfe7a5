"""Encoders by name."""

from __future__ import annotations

import pytest

from fps_pretrain.models.architectures import last_stage, short_name


@pytest.mark.parametrize(
    ("arch", "stage", "name"),
    [
        ("resnet8", "layer3", "r8"),
        ("resnet20", "layer3", "r20"),
        ("resnet18", "layer4", "r18"),
        ("resnext50_32x4d", "layer4", "resnext50_32x4d"),
        ("wide_resnet50_2", "layer4", "wide_resnet50_2"),
        ("densenet121", None, "densenet121"),
        ("vgg11", None, "vgg11"),
    ],
)
def test_last_stages_and_names(arch: str, stage: str | None, name: str) -> None:
    assert last_stage(arch) == stage
    assert short_name(arch, 1) == name
    assert short_name(arch, 4) == f"{name}x4"
