"""Encoders without a head: the CIFAR ResNets of He et al. (2016, section 4.2), and torchvision's architectures.

An encoder maps images ``(N, 3, H, W)`` to features ``(N, feature_dim)``. Heads (projectors for pre-training, a linear
classifier for federated learning) are put on top by whoever needs them. torchvision's keep torchvision's names of
tensors, so that weights go in both directions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.common.errors import UserError
from fps_pretrain.models.architectures import BLOCKS_PER_STAGE, check_architecture, is_cifar_resnet


class Encoder(nn.Module):
    """What every encoder has beside its weights: ``feature_dim``, the length of its features."""

    feature_dim: int


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


class CifarResNet(Encoder):
    """ResNet-8/20/32/44/56 without its classifier; ResNet-20 of width 1 has 0.27 million parameters.

    Args:
        arch: a key of ``architectures.BLOCKS_PER_STAGE``.
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


def _without_head(model: nn.Module, arch: str) -> nn.Module:
    """A classifier of torchvision's with its last linear layer replaced by the identity, and its ``feature_dim``.

    Raises:
        UserError: the classifier does not end in a linear layer.
    """
    for name in ("fc", "classifier", "heads", "head"):
        head = getattr(model, name, None)
        parent, last = (head, str(len(head) - 1)) if isinstance(head, nn.Sequential) else (model, name)
        if name == "heads" and isinstance(head, nn.Sequential):
            last = "head"  # torchvision's vision transformers name the layers of the head
        linear = getattr(parent, last, None)
        if isinstance(linear, nn.Linear):
            setattr(parent, last, nn.Identity())
            model.feature_dim = linear.in_features  # type: ignore[assignment]
            return model
    raise UserError(f"--arch {arch}: its head is no linear layer that could be replaced; take a ResNet")


def _torchvision_encoder(arch: str) -> nn.Module:
    """Any classifier of ``torchvision.models`` by name, with fresh weights and without its head."""
    import torchvision

    # Auxiliary classifiers (GoogLeNet, Inception) would make training return more than features.
    options = {"aux_logits": False, "init_weights": True} if arch in ("googlenet", "inception_v3") else {}
    return _without_head(torchvision.models.get_model(arch, weights=None, **options), arch)


def check_encoder(encoder: nn.Module, arch: str, size: int) -> None:
    """See that images of ``size`` pixels go through.

    Raises:
        UserError: they do not, or the output is not one vector for each image.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            features = encoder(torch.zeros(2, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"--arch {arch} does not take images of --size {size}: {error}") from error
    finally:
        encoder.train(was_training)
    if features.shape != (2, encoder.feature_dim):
        raise UserError(f"--arch {arch} gives features of shape {tuple(features.shape[1:])}: take a ResNet")


def build_encoder(arch: str, width: int = 1, seed: int | None = None) -> Encoder:
    """A freshly initialised ``Encoder``; with ``seed``, the same weights every time and the global RNG left as it was.

    Args:
        arch: a key of ``architectures.BLOCKS_PER_STAGE``, or a classifier of ``torchvision.models``.
        width: multiplies the channels of the former; 1 for the latter.
        seed: what the weights are drawn from; None for the global RNG.

    Raises:
        UserError: ``arch`` is no such name, has no head that can be replaced, or has no such width.
    """
    check_architecture(arch, width)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return cast(Encoder, CifarResNet(arch, width) if is_cifar_resnet(arch) else _torchvision_encoder(arch))


def build_classifier(encoder: Encoder, num_classes: int, seed: int) -> nn.Sequential:
    """``encoder`` with a fresh linear ``head``: images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.feature_dim, num_classes)
    return nn.Sequential(OrderedDict(encoder=encoder, head=head))
