"""What every method shares: an encoder under ``encoder``, an optimiser with its schedule, and what is logged."""

from __future__ import annotations

import copy
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytorch_lightning as L
import torch
from lightly.models.utils import deactivate_requires_grad
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor, nn

from fps_pretrain.common.errors import TrainingDiverged
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models.encoders import Encoder

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def cosine(total: int, warmup: int = 0) -> Callable[[int], float]:
    """Factor of the learning rate at each of ``total`` epochs or steps: from 1 towards 0 (Chen and He, section 4).

    During the first ``warmup`` of them it rises linearly to 1 (Goyal et al., 2017, section 2.2).
    """

    def factor(now: int) -> float:
        if now < warmup:
            return (now + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * min((now - warmup) / max(1, total - warmup), 1.0)))

    return factor


def momentum_copy(module: ModuleT) -> ModuleT:
    """A copy that no gradient reaches, to follow ``module`` slowly (lightly's ``update_momentum``)."""
    follower = copy.deepcopy(module)
    deactivate_requires_grad(follower)
    return follower


ADAMW_REFERENCE_LR = 1e-3
"""AdamW's learning rate for a batch of 256 where no other is given, for every method."""


class PairMethod(L.LightningModule, ABC):
    """Base of the methods; a method defines ``forward_pair`` and what differs from the defaults below.

    Everything a method must remember between steps is a parameter or a persistent buffer: that is what a run resumes
    from. Random numbers may come from torch's global generator, which is keyed by (seed, step, device) at every step.

    Args:
        config: a resolved configuration.
        encoder: images ``(N, 3, H, W)`` to features ``(N, feature_dim)``.
    """

    reference_lr: ClassVar[float] = 0.05
    """Learning rate for a batch of 256, scaled linearly with the batch (the paper's recipe for SimSiam)."""

    sync_batchnorm: ClassVar[bool] = True
    """Whether BatchNorm sees the whole batch when several devices share it."""

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.options: Any = config.options()
        self._bad_step: Tensor | None = None

    @abstractmethod
    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of two batches of views ``(N, 3, H, W)``, and embeddings ``(N, D)`` whose spread is watched."""

    def fixed_lr_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate does not decay."""
        return ()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of this device's share of a batch of pairs, ``(2, N, 3, H, W)``.

        Raises:
            TrainingDiverged: a loss was not finite.
        """
        config = self.config
        key = np.random.SeedSequence([config.seed, self.global_step, self.global_rank])
        torch.manual_seed(int(key.generate_state(1)[0]))
        # channels_last is what convolutions are fastest in, on CPUs and GPUs alike.
        first, second = (view.contiguous(memory_format=torch.channels_last) for view in batch)
        loss, embeddings = self.forward_pair(first, second)
        self._watch(loss.detach())
        if (self.global_step + 1) % config.log_every == 0:  # where Lightning writes a line
            self.refuse_if_diverged()
            several = config.world_size > 1
            self.log("loss", loss.detach(), sync_dist=several)
            # 1 when embeddings spread evenly over the sphere, 0 when all views have collapsed to one point.
            spread = std_of_l2_normalized(embeddings.detach().float()) * math.sqrt(embeddings.shape[1])
            self.log("embedding_spread", spread, sync_dist=several)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
            assert config.batch_size is not None
            self.log("pairs_seen", float((self.global_step + 1) * config.batch_size))
        return loss

    def _watch(self, loss: Tensor) -> None:
        """Remember the first step whose loss is not finite, without waiting for a GPU to have computed it."""
        if self._bad_step is None:
            self._bad_step = torch.full((), -1, dtype=torch.long, device=loss.device)
        finite = torch.isfinite(loss) | (self._bad_step >= 0)
        self._bad_step = torch.where(finite, self._bad_step, self.global_step)
        if loss.device.type == "cpu" and self.config.world_size == 1:
            self.refuse_if_diverged()

    def refuse_if_diverged(self, weights: bool = False) -> None:
        """See that all losses so far were finite, and the weights, too, if asked to; devices decide together.

        Raises:
            TrainingDiverged: one was not.
        """
        if self._bad_step is not None:
            bad = self._bad_step.clone()
            if self.config.world_size > 1:
                torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
            if bad >= 0:
                raise TrainingDiverged(f"the loss is nan or infinite at step {int(bad)}")
        if weights:
            for name, tensor in self.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise TrainingDiverged(f"{name} is nan or infinite after step {self.global_step - 1}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """No state is saved that nobody could go on from.

        Raises:
            TrainingDiverged: loss or weights are not finite.
        """
        self.refuse_if_diverged(weights=True)

    def configure_optimizers(self) -> Any:
        """SGD or AdamW; a cosine per epoch or step, but for ``fixed_lr_parameters``, which only warm up."""
        config = self.config
        assert config.epochs is not None
        assert config.batch_size is not None
        reference = self.reference_lr if config.optimizer == "sgd" else ADAMW_REFERENCE_LR
        lr = config.lr if config.lr is not None else reference * config.batch_size / 256
        fixed = {id(p) for p in self.fixed_lr_parameters()}
        groups = [
            {"params": [p for p in self.parameters() if p.requires_grad and id(p) not in fixed]},
            {"params": [p for p in self.parameters() if p.requires_grad and id(p) in fixed]},
        ]
        per_step = config.schedule == "step"
        total = config.total_steps if per_step else config.epochs
        warmup = (config.warmup_pairs or 0) // config.batch_size
        decay = cosine(total, warmup)
        decays = [decay, lambda now: decay(now) if now < warmup else 1.0]
        kept = [(g, d) for g, d in zip(groups, decays, strict=True) if g["params"]]
        parameters = [g for g, _ in kept]
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(
                parameters, lr=lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay, fused=True
            )
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [d for _, d in kept])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step" if per_step else "epoch"},
        }


def method_class(name: str) -> type[PairMethod]:
    """The LightningModule of the method in the file ``name``."""
    found: type[PairMethod] = importlib.import_module(f"fps_pretrain.methods.{name}").Method
    return found
