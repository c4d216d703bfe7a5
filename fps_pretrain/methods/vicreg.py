"""VICReg (Bardes et al., "Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models.encoders import Encoder


class Method(PairMethod):
    """Embeddings of two views agree, each dimension varies, and no two dimensions go together (section 4.1).

    Head of three layers of ``width`` units; the paper's 8192 is for features of 2048. ``invariance``, ``variance`` and
    ``covariance`` are the weights of the terms, lambda, mu and nu of equation 6; the loss is divided by the first.
    """

    reference_lr = 0.06
    default_options: ClassVar[Mapping[str, float]] = {
        "width": 512,
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
    }

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        width = self.whole_number("width", at_least=2)
        for name in ("invariance", "variance", "covariance"):
            if not self.options[name] >= (1e-6 if name == "invariance" else 0):
                raise UserError(f"--method-options {name}={self.options[name]:g} must be positive")
        self.projector = VICRegProjectionHead(encoder.feature_dim, width, width)
        scale = self.options["invariance"]
        self.criterion = VICRegLoss(
            1.0,
            self.options["variance"] / scale,
            self.options["covariance"] / scale,
            gather_distributed=config.world_size > 1,
        )

    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 6 divided by lambda, which SGD's learning rates are the size for; the embeddings are the firsts'."""
        z1, z2 = self.projector(self.encoder(first)).float(), self.projector(self.encoder(second)).float()
        return self.criterion(z1, z2), z1
