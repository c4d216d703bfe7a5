"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor

from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, View
from fps_pretrain.models.encoders import Encoder


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of SimCLR."""

    reference_lr = 0.12

    temperature: Annotated[float, Gt(1e-3)] = 0.5
    """Divides the similarities; the default is the paper's for CIFAR-10 (appendix B.9)."""
    hidden: Annotated[int, Ge(0), Le(16_384)] = 0
    """Units of the head's hidden layer; 0 for as many as the encoder has features, the paper's."""


class Method(PairMethod):
    """A view is told from all other views of the batch, of every device (section 2.1, equation 1).

    Head of two layers with BatchNorm, out 128 (section 4.2 and the released code).
    """

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        hidden = self.options.hidden or encoder.feature_dim
        self.projector = SimCLRProjectionHead(encoder.feature_dim, hidden, 128)
        self.criterion = NTXentLoss(self.options.temperature, gather_distributed=config.world_size > 1)

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """The projections of both views."""
        z1, z2 = self.projector(self.encode(first)).float(), self.projector(self.encode(second)).float()
        return (z1,), (z2,)

    def pair_loss(self, first: View, second: View) -> Tensor:
        """Cross-entropy of finding a view's partner among the 2N - 1 other views."""
        loss: Tensor = self.criterion(*first, *second)
        return loss
