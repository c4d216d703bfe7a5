"""Barlow Twins (Zbontar et al., "Self-Supervised Learning via Redundancy Reduction", ICML 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead
from torch import Tensor

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models.encoders import Encoder


class Method(PairMethod):
    """The cross-correlation of two views' embeddings becomes the identity (section 2.1, equation 1).

    Head of three layers of ``width`` units; the paper's 8192 is for features of 2048, here it is less by default, as
    the features are fewer. ``redundancy`` is the weight of the off-diagonal terms, the paper's lambda.
    """

    reference_lr = 0.06
    default_options: ClassVar[Mapping[str, float]] = {"width": 512, "redundancy": 5e-3}

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        width = self.whole_number("width", at_least=2)
        if not self.options["redundancy"] >= 0:
            raise UserError(f"--method-options redundancy={self.options['redundancy']:g} must be at least 0")
        self.projector = BarlowTwinsProjectionHead(encoder.feature_dim, width, width)
        self.criterion = BarlowTwinsLoss(self.options["redundancy"], gather_distributed=config.world_size > 1)

    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Loss per dimension, so that a learning rate suits any width; the embeddings are the first views'."""
        z1, z2 = self.projector(self.encoder(first)).float(), self.projector(self.encoder(second)).float()
        return self.criterion(z1, z2) / z1.shape[1], z1
