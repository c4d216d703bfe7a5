"""What every method shares: an encoder under ``encoder``, an optimiser with its schedule, and what is logged."""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytorch_lightning as L
import torch
from lightly.models.utils import deactivate_requires_grad
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.common.errors import TrainingDiverged
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.optimizer import make_optimizer
from fps_pretrain.methods.signals import effective_rank, shuffled, spread
from fps_pretrain.models.encoders import Encoder

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def momentum_copy(module: ModuleT) -> ModuleT:
    """A copy that no gradient reaches, to follow ``module`` slowly (lightly's ``update_momentum``)."""
    follower = copy.deepcopy(module)
    deactivate_requires_grad(follower)
    return follower


View = tuple[Tensor, ...]
"""What a loss compares of one view of N pairs: tensors of N rows, the embeddings that are watched first."""


class PairMethod(L.LightningModule, ABC):
    """Base of the methods; a method defines ``embed_pair``, ``pair_loss`` and what differs from the defaults below.

    Everything a method must remember between steps is a parameter or a persistent buffer: that is what a run resumes
    from. Random numbers may come from torch's global generator, which is keyed by (seed, step, device) at every step.

    Args:
        config: a resolved configuration.
        encoder: images ``(N, 3, H, W)`` to features ``(N, feature_dim)``.
    """

    sync_batchnorm: ClassVar[bool] = True
    """Whether BatchNorm sees the whole batch when several devices share it."""

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.options: Any = config.options()
        self._bad_step: Tensor | None = None
        self._logged = False
        self._features: list[Tensor] = []

    @abstractmethod
    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """What ``pair_loss`` compares of two batches of views ``(N, 3, H, W)``; features come from ``encode``."""

    @abstractmethod
    def pair_loss(self, first: View, second: View) -> Tensor:
        """The loss of N pairs, a number. Called twice in steps that are logged: it may neither remember nor draw."""

    def encode(self, views: Tensor) -> Tensor:
        """Features ``(N, feature_dim)`` of views, which are kept for the log in steps that are logged."""
        features: Tensor = self.encoder(views)
        if self._logged:
            self._features.append(features.detach())
        return features

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
        self._logged = (self.global_step + 1) % config.log_every == 0  # where Lightning writes a line
        ours, theirs = self.embed_pair(first, second)
        loss = self.pair_loss(ours, theirs)
        self._watch(loss.detach())
        if self._logged:
            self.refuse_if_diverged()
            self._log(loss.detach(), ours, theirs)
        return loss

    @torch.no_grad()
    def _log(self, loss: Tensor, ours: View, theirs: View) -> None:
        """Log the loss and the signs of a collapse; see ``signals`` and ``probing.collapse``."""
        features, self._features = torch.cat(self._features), []
        values = {
            "loss": loss,
            "loss_shuffled": self.pair_loss(ours, shuffled(theirs)),
            "embedding_spread": spread(ours[0]),
            "embedding_rank": effective_rank(F.normalize(ours[0].detach().float(), dim=1)),
            "feature_rank": effective_rank(features),
        }
        for name, value in values.items():
            self.log(name, value.float(), sync_dist=self.config.world_size > 1)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        assert self.config.batch_size is not None
        self.log("pairs_seen", float((self.global_step + 1) * self.config.batch_size))

    def on_after_backward(self) -> None:
        """Log the norm of the encoder's gradient; devices have averaged it by now."""
        if self._logged:
            gradients = [p.grad for p in self.encoder.parameters() if p.grad is not None]
            self.log("gradient_norm", torch.nn.utils.get_total_norm(gradients))

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
        return make_optimizer(self.config, self.parameters(), self.fixed_lr_parameters())


def method_class(name: str) -> type[PairMethod]:
    """The LightningModule of the method in the file ``name``."""
    found: type[PairMethod] = importlib.import_module(f"fps_pretrain.methods.{name}").Method
    return found
