"""Barlow Twins (Zbontar et al., "Self-Supervised Learning via Redundancy Reduction", ICML 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead
from torch import Tensor

from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, View
from fps_pretrain.models.encoders import Encoder


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of Barlow Twins."""

    reference_lr = 0.06

    width: Annotated[int, Ge(2), Le(16_384)] = 512
    """Units of the head's layers; the paper's 8192 is for features of 2048."""
    redundancy: Annotated[float, Ge(0)] = 5e-3
    """Weight of the off-diagonal terms, the paper's lambda."""


class Method(PairMethod):
    """The cross-correlation of two views' embeddings becomes the identity (section 2.1, equation 1).

    Head of three layers.
    """

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        width = self.options.width
        self.projector = BarlowTwinsProjectionHead(encoder.feature_dim, width, width)
        self.criterion = BarlowTwinsLoss(self.options.redundancy, gather_distributed=config.world_size > 1)

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """The projections of both views."""
        z1, z2 = self.projector(self.encode(first)).float(), self.projector(self.encode(second)).float()
        return (z1,), (z2,)

    def pair_loss(self, first: View, second: View) -> Tensor:
        """The loss of equation 1 per dimension, so that a learning rate suits any width."""
        loss: Tensor = self.criterion(*first, *second) / first[0].shape[1]
        return loss
