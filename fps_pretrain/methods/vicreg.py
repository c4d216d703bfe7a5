"""VICReg (Bardes et al., "Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, View
from fps_pretrain.models.encoders import Encoder


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of VICReg; its weights are those of equation 6."""

    reference_lr = 0.06

    width: Annotated[int, Ge(2), Le(16_384)] = 512
    """Units of the head's layers; the paper's 8192 is for features of 2048."""
    invariance: Annotated[float, Ge(1e-6)] = 25.0
    """Weight of the invariance term, lambda."""
    variance: Annotated[float, Ge(0)] = 25.0
    """Weight of the variance term, mu."""
    covariance: Annotated[float, Ge(0)] = 1.0
    """Weight of the covariance term, nu."""


class Method(PairMethod):
    """Embeddings of two views agree, each dimension varies, and no two dimensions go together (section 4.1).

    Head of three layers. The loss of equation 6 is divided by lambda.
    """

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        width = self.options.width
        self.projector = VICRegProjectionHead(encoder.feature_dim, width, width)
        scale = self.options.invariance
        self.criterion = VICRegLoss(
            1.0,
            self.options.variance / scale,
            self.options.covariance / scale,
            gather_distributed=config.world_size > 1,
        )

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """The projections of both views."""
        z1, z2 = self.projector(self.encode(first)).float(), self.projector(self.encode(second)).float()
        return (z1,), (z2,)

    def pair_loss(self, first: View, second: View) -> Tensor:
        """Equation 6 divided by lambda: SGD's learning rates are chosen for losses of that size."""
        loss: Tensor = self.criterion(*first, *second)
        return loss
