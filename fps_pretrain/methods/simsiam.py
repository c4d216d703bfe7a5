"""SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod
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
    """SimSiam has no options of its own."""


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

    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """D(p1, z2) / 2 + D(p2, z1) / 2 (equations 1 to 4); the embeddings are the first views' projections."""
        z1, z2 = self.projector(self.encoder(first)), self.projector(self.encoder(second))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        z1, z2 = z1.detach().float(), z2.detach().float()
        loss = 0.5 * (self.criterion(p1.float(), z2) + self.criterion(p2.float(), z1))
        return loss, z1
