"""Encoders: the CIFAR ResNets of He et al. (2016, section 4.2), with widths and without a head.

An encoder maps images ``(N, 3, H, W)`` to features ``(N, feature_dim)``; any H and W that survive two halvings do.
Heads (projectors for pre-training, a linear classifier for federated learning) are put on top by whoever needs them.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What pre-training normalises its views with, and so what every user of an encoder must (see ``normalise``)."""

BLOCKS_PER_STAGE = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
"""The architectures by name: depth 6n + 2 has n residual blocks in each of three stages."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a parameter-free shortcut (He et al. 2016, option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet-20/32/44/56 without its classifier; ResNet-20 of width 1 has 0.27 million parameters.

    Args:
        arch: a key of ``BLOCKS_PER_STAGE``.
        width: multiplies the 16, 32 and 64 channels of the three stages (the paper's ``expand``).
    """

    def __init__(self, arch: str, width: int = 1) -> None:
        super().__init__()
        blocks = BLOCKS_PER_STAGE[arch]
        channels = [16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = self._stage(channels[0], channels[0], blocks, stride=1)
        self.layer2 = self._stage(channels[0], channels[1], blocks, stride=2)
        self.layer3 = self._stage(channels[1], channels[2], blocks, stride=2)
        self.feature_dim = channels[2]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = ResidualBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(ResidualBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` to features ``(N, feature_dim)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return out.mean(dim=(2, 3))


def normalise(images: Tensor) -> Tensor:
    """The encoder's input of images: uint8 ``(N, H, W, 3)`` RGB to float ``(N, 3, H, W)``, in channels_last memory."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (images.permute(0, 3, 1, 2).float() - 255 * mean) / (255 * std)


def build_encoder(arch: str, width: int = 1, seed: int | None = None) -> CifarResNet:
    """A freshly initialised encoder; with ``seed``, the same weights every time and the global RNG left as it was.

    Raises:
        UserError: ``arch`` is not one of ``BLOCKS_PER_STAGE`` or ``width`` is below 1.
    """
    if arch not in BLOCKS_PER_STAGE:
        raise UserError(f"unknown architecture '{arch}': choose one of {', '.join(BLOCKS_PER_STAGE)}")
    if width < 1:
        raise UserError(f"width must be at least 1, got {width}")
    if seed is None:
        return CifarResNet(arch, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CifarResNet(arch, width)


def build_classifier(encoder: CifarResNet, num_classes: int, seed: int) -> nn.Sequential:
    """``encoder`` with a fresh linear ``head``: images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.feature_dim, num_classes)
    return nn.Sequential(OrderedDict(encoder=encoder, head=head))
