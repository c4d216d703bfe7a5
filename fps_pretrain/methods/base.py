"""What every method shares: an encoder under ``encoder``, SGD with a cosine per epoch, and what is logged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as L
import torch
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor, nn

from fps_pretrain.config import PretrainConfig
from fps_pretrain.errors import UserError
from fps_pretrain.models import CifarResNet


def cosine_per_epoch(epochs: int) -> Callable[[int], float]:
    """Factor of the learning rate in an epoch: from 1 towards 0 (Chen and He, CVPR 2021, section 4)."""
    return lambda epoch: 0.5 * (1.0 + math.cos(math.pi * min(epoch, epochs) / epochs))


class PairMethod(L.LightningModule, ABC):
    """Base of the methods; a method defines ``forward_pair`` and, where its recipe has one, its learning rate.

    Args:
        config: a resolved configuration.
        encoder: images ``(N, 3, H, W)`` to features ``(N, feature_dim)``.
    """

    reference_lr = 0.05
    """Learning rate for a batch of 256, scaled linearly with the batch (the paper's recipe for SimSiam)."""

    def __init__(self, config: PretrainConfig, encoder: CifarResNet) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder

    @abstractmethod
    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of two batches of views ``(N, 3, H, W)``, and embeddings ``(N, D)`` whose spread is watched."""

    def fixed_lr_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate does not decay."""
        return ()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of a batch of pairs ``(2, N, 3, H, W)``.

        Raises:
            UserError: the loss is not finite.
        """
        # channels_last is what convolutions are fastest in, on CPUs and GPUs alike.
        first, second = (view.contiguous(memory_format=torch.channels_last) for view in batch)
        loss, embeddings = self.forward_pair(first, second)
        if self.global_step % self.config.log_every == 0:
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()} at step {self.global_step}: lower --lr and start over")
            self.log("loss", loss.detach())
            # 1 when embeddings spread evenly over the sphere, 0 when all views have collapsed to one point.
            spread = std_of_l2_normalized(embeddings.detach().float()) * math.sqrt(embeddings.shape[1])
            self.log("embedding_spread", spread)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log("pairs_seen", float(self.global_step * batch.shape[1]))
        return loss

    def configure_optimizers(self) -> Any:
        """SGD; a cosine per epoch for all parameters but ``fixed_lr_parameters``."""
        config = self.config
        assert config.epochs is not None
        assert config.batch_size is not None
        lr = config.lr if config.lr is not None else self.reference_lr * config.batch_size / 256
        fixed = {id(p) for p in self.fixed_lr_parameters()}
        groups = [
            {"params": [p for p in self.parameters() if p.requires_grad and id(p) not in fixed]},
            {"params": [p for p in self.parameters() if p.requires_grad and id(p) in fixed]},
        ]
        decays = [cosine_per_epoch(config.epochs), lambda epoch: 1.0]
        kept = [(g, d) for g, d in zip(groups, decays, strict=True) if g["params"]]
        optimizer = torch.optim.SGD(
            [g for g, _ in kept], lr=lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [d for _, d in kept])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
