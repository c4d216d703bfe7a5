"""SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from fps_pretrain.config import PretrainConfig
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models import CifarResNet


class Method(PairMethod):
    """Projector of three layers with the features' width, out 512; predictor 512-128-512; stop-gradient.

    The sizes are those of the FPS recipe at 32 px (Chen et al., ICLR 2023, appendix).
    """

    def __init__(self, config: PretrainConfig, encoder: CifarResNet) -> None:
        super().__init__(config, encoder)
        self.projector = SimSiamProjectionHead(encoder.feature_dim, encoder.feature_dim, 512)
        self.predictor = SimSiamPredictionHead(512, 128, 512)
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
