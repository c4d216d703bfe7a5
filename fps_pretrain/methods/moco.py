"""MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., arXiv 2003.04297)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Lt
from lightly.models.modules.heads import MoCoProjectionHead, ProjectionHead
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.utils import (
    batch_shuffle_distributed,
    batch_unshuffle_distributed,
    update_momentum,
)
from torch import Tensor, nn
from torch.nn import functional as F

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.method import MethodOptions
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import PairMethod, View, momentum_copy
from fps_pretrain.models.encoders import Encoder

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
        total = queries.new_zeros(len(queries))
        weighted = torch.zeros_like(queries)
        for part in negatives.split(_PART):
            weights = (queries @ part.T).exp_()
            total += weights.sum(dim=1)
            weighted += weights @ part
        ctx.save_for_backward(weighted / total.unsqueeze(1))
        return total.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mean,) = ctx.saved_tensors
        return gradients[0].unsqueeze(1) * mean, None


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of telling a query's key from negatives (He et al., equation 1), averaged over the queries.

    Args:
        queries: ``(N, D)``, float32, of length 1.
        keys: ``(N, D)``, float32, of length 1, the positive of each query.
        negatives: ``(K, D)``, of length 1, shared by all queries.
        temperature: divides the similarities.
    """
    # In bfloat16 the similarities of the start, which are all alike, would take three distinct values.
    with torch.autocast(queries.device.type, enabled=False):
        positive = (queries * keys).sum(dim=1) / temperature
        negative = _LogSumExpOfSimilarities.apply(queries / temperature, negatives)  # type: ignore[no-untyped-call]
        return (torch.logaddexp(positive, negative) - positive).mean()


def _head(features: int, batchnorm: bool) -> nn.Module:
    """Features ``(N, features)`` to ``(N, 128)``."""
    if not batchnorm:
        return MoCoProjectionHead(features, features, 128)
    hidden = (features, features, nn.BatchNorm1d(features), nn.ReLU())
    return ProjectionHead([hidden, (features, 128, nn.BatchNorm1d(128, affine=False), None)])


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of MoCo."""

    reference_lr = 0.03

    queue: Annotated[int, Ge(1), Le(2**20)] = 65_536
    """Keys in the queue, at least a batch."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Momentum of the key encoder."""
    temperature: Annotated[float, Ge(0.02)] = 0.2
    """Divides the similarities. From 0.02 on exp(1 / temperature), summed over the queue, is a finite number."""
    group: Annotated[int, Ge(0)] = 32
    """Views that one device normalises together, at least 2; 0 for the whole batch."""
    head_batchnorm: Annotated[int, Ge(0), Le(1)] = 0
    """1 puts a BatchNorm after each layer of the head, the last without scale and shift: for short runs."""


class Method(PairMethod):
    """A query encoder learns to find the key of the other view among a queue of keys from a momentum encoder.

    Head of two layers, without BatchNorm unless ``head_batchnorm`` is 1, out 128. A query and its key are normalised
    with different views, so that BatchNorm's statistics do not betray which key is the query's (He et al., section
    3.3): several devices shuffle the keys' batch among them; one device alone takes a batch in groups of ``group``
    views, other ones for the keys.
    """

    sync_batchnorm = False

    def __init__(self, config: PretrainConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        size, self.group = self.options.queue, self.options.group
        assert config.batch_size is not None
        if size < config.batch_size:
            raise UserError(f"--method-options queue={size} must be at least the batch size, {config.batch_size}")
        if self.group == 1:
            raise UserError("--method-options group must be 0 (the whole batch) or at least 2, got 1")
        if config.batch_size // self._groups(config.batch_size) < 2:
            raise UserError(
                f"--method-options group={self.group} leaves a group of one view in a batch of {config.batch_size}, "
                "which BatchNorm cannot normalise: take an even --batch-size or a larger group"
            )
        self.projector = _head(encoder.feature_dim, batchnorm=bool(self.options.head_batchnorm))
        self.momentum_encoder = momentum_copy(encoder)
        self.momentum_projector = momentum_copy(self.projector)
        self.queue = KeyQueue(size, 128)
        self._keys: Tensor | None = None

    @torch.no_grad()
    def _encode_keys(self, views: Tensor) -> Tensor:
        """Keys ``(N, 128)`` of ``views``, of length 1."""
        if self.config.world_size > 1:
            views, order = batch_shuffle_distributed(views)
            views = views.contiguous(memory_format=torch.channels_last)
            return batch_unshuffle_distributed(self._embed_keys(views), order)
        groups = self._groups(len(views))
        keys = self.queue.bank.new_empty(len(views), self.queue.bank.shape[1])
        for first in range(groups):  # every groups-th view: others than those a query is normalised with
            part = views[first::groups].contiguous(memory_format=torch.channels_last)
            keys[first::groups] = self._embed_keys(part)
        return keys

    def _embed_keys(self, views: Tensor) -> Tensor:
        return F.normalize(self.momentum_projector(self.momentum_encoder(views)).float(), dim=1)

    def _encode_queries(self, views: Tensor) -> Tensor:
        """Queries ``(N, 128)`` of ``views``, of length 1."""
        parts = views.tensor_split(self._groups(len(views)))
        return F.normalize(torch.cat([self.projector(self.encode(part)) for part in parts]).float(), dim=1)

    def _groups(self, views: int) -> int:
        """How many parts of a batch BatchNorm sees one after the other."""
        return 1 if self.config.world_size > 1 or not self.group else math.ceil(views / self.group)

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[View, View]:
        """Queries of the first views and keys of the second, of length 1 (algorithm 1 of He et al.)."""
        update_momentum(self.encoder, self.momentum_encoder, self.options.momentum)
        update_momentum(self.projector, self.momentum_projector, self.options.momentum)
        self._keys = self._encode_keys(second)
        return (self._encode_queries(first),), (self._keys,)

    def pair_loss(self, first: View, second: View) -> Tensor:
        """``info_nce`` against the queue."""
        (queries,), (keys,) = first, second
        return info_nce(queries, keys, self.queue.bank, self.options.temperature)

    def on_after_backward(self) -> None:
        """Enqueue after the backward pass, which needs the queue as it was."""
        super().on_after_backward()
        assert self._keys is not None
        self.queue.enqueue(self._keys)
