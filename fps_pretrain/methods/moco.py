"""MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., arXiv 2003.04297)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightly.models.modules.heads import MoCoProjectionHead
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.utils import (
    batch_shuffle_distributed,
    batch_unshuffle_distributed,
    update_momentum,
)
from torch import Tensor
from torch.nn import functional as F

from fps_pretrain.config import PretrainConfig
from fps_pretrain.errors import UserError
from fps_pretrain.methods.base import PairMethod, momentum_copy
from fps_pretrain.models import Encoder

_PART = 1_024
"""Negatives at a time: 256 x 1,024 similarities are 1 MiB, which stays in the cache."""


class KeyQueue(MemoryBankModule):
    """Keys ``(size, dim)`` of earlier batches, of length 1; the oldest are replaced, and a run resumes with them."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__((size, dim), gather_distributed=True)
        self.register_buffer("bank", self.bank, persistent=True)
        self.register_buffer("bank_ptr", self.bank_ptr, persistent=True)

    def enqueue(self, keys: Tensor) -> None:
        """Put the keys ``(N, dim)`` of all devices in place of the oldest."""
        self._dequeue_and_enqueue(keys)


class _LogSumExpOfSimilarities(torch.autograd.Function):
    """log sum_k exp(q . n_k) for queries ``(N, D)`` and negatives ``(K, D)``, a part of the negatives at a time.

    The N x K similarities are the largest thing in a step of MoCo; here a part of them stays in the cache from the
    product to its last use, and the gradient with respect to the queries falls off on the way. Similarities are bounded
    by 1 / temperature, so that no maximum has to be subtracted before ``exp``.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, negatives: Tensor) -> Tensor:
        total = queries.new_zeros(len(queries), dtype=torch.float32)
        weighted = torch.zeros_like(queries, dtype=torch.float32)
        for part in negatives.split(_PART):
            weights = (queries @ part.T).float().exp_()
            total += weights.sum(dim=1)
            weighted += (weights.to(part.dtype) @ part).float()
        ctx.save_for_backward(weighted / total.unsqueeze(1))
        return total.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mean,) = ctx.saved_tensors
        return gradients[0].unsqueeze(1) * mean, None


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of telling a query's key from negatives (He et al., equation 1), averaged over the queries.

    Args:
        queries: ``(N, D)``, of length 1.
        keys: ``(N, D)``, of length 1, the positive of each query.
        negatives: ``(K, D)``, of length 1, shared by all queries.
        temperature: divides the similarities.
    """
    positive = (queries * keys).sum(dim=1) / temperature
    negative = _LogSumExpOfSimilarities.apply(queries / temperature, negatives)  # type: ignore[no-untyped-call]
    return (torch.logaddexp(positive, negative) - positive).mean()


class Method(PairMethod):
    """A query encoder learns to find the key of the other view among a queue of keys from a momentum encoder.

    Head of two layers without BatchNorm, out 128; on several devices the keys' batch is shuffled, so that BatchNorm
    statistics, which each device computes for itself, betray nothing (He et al., section 3.3).
    """

    reference_lr = 0.03
    sync_batchnorm = False
    default_options: ClassVar[Mapping[str, float]] = {"queue": 65_536, "momentum": 0.999, "temperature": 0.2}

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        size = int(self.options["queue"])
        assert config.batch_size is not None
        if size < config.batch_size:
            raise UserError(f"--method-options queue={size} must be at least the batch size, {config.batch_size}")
        if not 0 <= self.options["momentum"] < 1:
            raise UserError(f"--method-options momentum={self.options['momentum']:g} must be in [0, 1)")
        if not self.options["temperature"] >= 0.02:  # exp(1 / temperature), summed over the queue, must be a number
            raise UserError(f"--method-options temperature={self.options['temperature']:g} must be at least 0.02")
        self.projector = MoCoProjectionHead(encoder.feature_dim, encoder.feature_dim, 128)
        self.momentum_encoder = momentum_copy(encoder)
        self.momentum_projector = momentum_copy(self.projector)
        self.queue = KeyQueue(size, 128)
        self._keys: Tensor | None = None

    @torch.no_grad()
    def _encode_keys(self, views: Tensor) -> Tensor:
        """Keys ``(N, 128)`` of ``views``, of length 1."""
        several = self.config.world_size > 1
        if several:
            views, order = batch_shuffle_distributed(views)
            views = views.contiguous(memory_format=torch.channels_last)
        keys = F.normalize(self.momentum_projector(self.momentum_encoder(views)).float(), dim=1)
        return batch_unshuffle_distributed(keys, order) if several else keys

    def forward_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 1 of He et al.: first views are queries, second views keys; the embeddings are the queries."""
        update_momentum(self.encoder, self.momentum_encoder, self.options["momentum"])
        update_momentum(self.projector, self.momentum_projector, self.options["momentum"])
        self._keys = self._encode_keys(second)
        queries = F.normalize(self.projector(self.encoder(first)).float(), dim=1)
        return info_nce(queries, self._keys, self.queue.bank, self.options["temperature"]), queries

    def on_after_backward(self) -> None:
        """Only now, since backpropagation still needed the queue as it was."""
        assert self._keys is not None
        self.queue.enqueue(self._keys)
