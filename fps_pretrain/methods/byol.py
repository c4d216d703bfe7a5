"""BYOL (Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor

from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, View, momentum_copy
from fps_pretrain.models.encoders import Encoder


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of BYOL."""

    reference_lr = 0.06

    momentum: Annotated[float, Ge(0), Le(1)] = 0.996
    """Momentum of the target at the start; it goes to 1 by a cosine (section 3.2)."""
    hidden: Annotated[int, Ge(1), Le(16_384)] = 512
    """Units of the heads' hidden layer; the paper's 4096 is for features of 2048."""


class Method(PairMethod):
    """An online network predicts a slowly moving target network's embedding of the other view (section 3.1).

    Heads with a hidden layer, out 256.
    """

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        hidden = self.options.hidden
        self.projector = BYOLProjectionHead(encoder.feature_dim, hidden, 256)
        self.predictor = BYOLPredictionHead(256, hidden, 256)
        self.momentum_encoder = momentum_copy(encoder)
        self.momentum_projector = momentum_copy(self.projector)
        self.criterion = NegativeCosineSimilarity()

    @torch.no_grad()
    def _targets(self, views: Tensor) -> Tensor:
        return self.momentum_projector(self.momentum_encoder(views)).float()

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """For each view the online projection, the prediction made from it, and the target's projection."""
        momentum = cosine_schedule(self.global_step, self.config.total_steps, self.options.momentum, 1.0)
        update_momentum(self.encoder, self.momentum_encoder, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)
        z1, z2 = self.projector(self.encode(first)), self.projector(self.encode(second))
        p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        t2, t1 = self._targets(second), self._targets(first)
        return (z1, p1, t1), (z2, p2, t2)

    def pair_loss(self, first: View, second: View) -> Tensor:
        """Both directions of equation 2, as cosines."""
        (_, p1, t1), (_, p2, t2) = first, second
        loss: Tensor = 0.5 * (self.criterion(p1, t2) + self.criterion(p2, t1))
        return loss
