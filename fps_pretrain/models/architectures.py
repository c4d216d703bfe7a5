"""Encoders by name, without importing any: what ``--arch`` takes and what files made with it are called."""

from __future__ import annotations

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options.types import MAX_WIDTH

BLOCKS_PER_STAGE = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
"""The CIFAR ResNets of He et al. (2016, section 4.2): depth 6n + 2 has n residual blocks in each of three stages.

The paper begins with n = 3; ResNet-8 is for trials."""

_TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def is_cifar_resnet(arch: str) -> bool:
    """Whether ``arch`` is one of this project's ResNets for small images; all others are torchvision's."""
    return arch in BLOCKS_PER_STAGE


def last_stage(arch: str) -> str | None:
    """The name of an encoder's last residual stage: of the ResNets here and torchvision's; None for other encoders."""
    if is_cifar_resnet(arch):
        return "layer3"
    return "layer4" if arch.startswith(("resnet", "resnext", "wide_resnet")) else None


def check_architecture(arch: str, width: int) -> None:
    """Accept the name of an encoder and its width.

    Raises:
        UserError: nothing is called ``arch``, or it has no widths.
    """
    if not 1 <= width <= MAX_WIDTH:
        raise UserError(f"--width must be 1 to {MAX_WIDTH}, got {width}")
    if is_cifar_resnet(arch):
        return
    if width != 1:
        raise UserError(f"--width {width} is for {', '.join(BLOCKS_PER_STAGE)}; {arch} has no widths")
    if arch in _TORCHVISION_RESNETS:
        return
    import torchvision  # seconds, so only for the names above all others

    if arch not in torchvision.models.list_models(module=torchvision.models):
        known = ", ".join((*BLOCKS_PER_STAGE, *_TORCHVISION_RESNETS))
        raise UserError(f"unknown --arch '{arch}': choose one of {known}, or another of torchvision.models by name")


def short_name(arch: str, width: int) -> str:
    """``r20`` for resnet20, ``r20x2`` at width 2, ``r18`` for resnet18, other names as they are."""
    depth = arch.removeprefix("resnet")
    name = f"r{depth}" if depth.isdigit() else arch
    return name if width == 1 else f"{name}x{width}"
