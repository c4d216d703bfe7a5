"""SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, View
from fps_pretrain.models.architectures import is_cifar_resnet
from fps_pretrain.models.encoders import Encoder


def zero_last_batchnorm(encoder: nn.Module) -> None:
    """Let every residual block of a torchvision ResNet begin as the identity: its last BatchNorm scales by zero."""
    for block in encoder.modules():
        if isinstance(block, Bottleneck):
            nn.init.zeros_(block.bn3.weight)
        elif isinstance(block, BasicBlock):
            nn.init.zeros_(block.bn2.weight)


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of SimSiam."""

    centre: Annotated[int, Ge(0), Le(1)] = 0
    """1 subtracts the mean over the batch from the targets, against the collapse to one dimension."""


class Method(PairMethod):
    """Projector of three layers with the features' width, predictor with a bottleneck of a quarter, stop-gradient.

    The projector's output is 512 for the CIFAR ResNets (Chen et al., ICLR 2023, appendix) and 2048 for torchvision's
    encoders, whose residual blocks begin as identities (Chen and He, section 4 and their released code).
    """

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        out = 512 if is_cifar_resnet(config.arch) else 2048
        if not is_cifar_resnet(config.arch):
            zero_last_batchnorm(encoder)
        self.projector = SimSiamProjectionHead(encoder.feature_dim, encoder.feature_dim, out)
        self.predictor = SimSiamPredictionHead(out, out // 4, out)
        self.criterion = NegativeCosineSimilarity()

    def fixed_lr_parameters(self) -> Iterable[nn.Parameter]:
        """The predictor's learning rate does not decay (section 4.1)."""
        return self.predictor.parameters()

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """For each view its projection, which no gradient reaches, and the prediction made from it."""
        z1, z2 = self.projector(self.encode(first)), self.projector(self.encode(second))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return (z1.detach().float(), p1.float()), (z2.detach().float(), p2.float())

    def pair_loss(self, first: View, second: View) -> Tensor:
        """D(p1, z2) / 2 + D(p2, z1) / 2 (equations 1 to 4)."""
        (z1, p1), (z2, p2) = first, second
        distance = self._centred_distance if self.options.centre else self.criterion
        loss: Tensor = 0.5 * (distance(p1, z2) + distance(p2, z1))
        return loss

    def _centred_distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Negative inner product of predictions of length 1 and targets of length 1 less their mean, ``(N, D)`` each.

        A prediction that is the same for all views scores 0 (Zhang et al., ICLR 2022, on the centre vector).
        """
        targets = F.normalize(targets, dim=1)
        mean = targets.mean(dim=0)
        if self.config.world_size > 1:
            torch.distributed.all_reduce(mean)
            mean /= self.config.world_size
        return -(F.normalize(predictions, dim=1) * (targets - mean)).sum(dim=1).mean()
