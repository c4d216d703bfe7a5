"""BYOL (Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, momentum_copy
from fps_pretrain.models.encoders import Encoder


class Method(PairMethod):
    """An online network predicts a slowly moving target network's embedding of the other view (section 3.1).

    Heads with a hidden layer of ``hidden`` units, out 256 (the paper: 4096 for features of 2048). The target's momentum
    goes from ``momentum`` to 1 by a cosine (section 3.2).
    """

    reference_lr = 0.06
    default_options: ClassVar[Mapping[str, float]] = {"momentum": 0.996, "hidden": 512}

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        hidden = self.whole_number("hidden", at_least=1)
        if not 0 <= self.options["momentum"] <= 1:
            raise UserError(f"--method-options momentum={self.options['momentum']:g} must be in [0, 1]")
        self.projector = BYOLProjectionHead(encoder.feature_dim, hidden, 256)
        self.predictor = BYOLPredictionHead(256, hidden, 256)
        self.momentum_encoder = momentum_copy(encoder)
        self.momentum_projector = momentum_copy(self.projector)
        self.criterion = NegativeCosineSimilarity()

    @torch.no_grad()
    def _targets(self, views: Tensor) -> Tensor:
        return self.momentum_projector(self.momentum_encoder(views)).float()

    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Both directions of equation 2, as cosines; the embeddings are the first views' projections."""
        momentum = cosine_schedule(self.global_step, self.config.total_steps, self.options["momentum"], 1.0)
        update_momentum(self.encoder, self.momentum_encoder, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)
        z1, z2 = self.projector(self.encoder(first)), self.projector(self.encoder(second))
        p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        loss = 0.5 * (self.criterion(p1, self._targets(second)) + self.criterion(p2, self._targets(first)))
        return loss, z1
