"""What embeddings say of the health of a run: their spread and effective rank, and unrelated pairs to compare with."""

from __future__ import annotations

import math

import torch
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor


def spread(embeddings: Tensor) -> Tensor:
    """1 when embeddings ``(N, D)`` spread evenly over the sphere, 0 when all are at one point.

    The standard deviation of each dimension of the embeddings of length 1, times sqrt(D) (Chen and He, CVPR 2021,
    section 4.1).
    """
    return std_of_l2_normalized(embeddings.detach().float()) * math.sqrt(embeddings.shape[1])


@torch.no_grad()
def effective_rank(vectors: Tensor) -> Tensor:
    """How many dimensions vectors ``(N, D)`` use: exp of the entropy of their covariance's normalised singular values.

    1 when they vary along one line, at most min(N - 1, D) (Roy and Vetterli, EUSIPCO 2007); not a number when they are
    not finite. Constant vectors have no rank worth the name: look at ``spread`` first.
    """
    centred = vectors.detach().double()
    centred = centred - centred.mean(dim=0)
    # The smaller of the two Gram matrices has the same eigenvalues but for zeros.
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    if not torch.isfinite(gram).all():
        return gram.new_full((), math.nan)
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


def shuffled(view: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors of N rows with each row in another's place: what belongs to the second view of another pair.

    Rows move on by one. That draws no random number, which would change the run.
    """
    return tuple(tensor.roll(1, dims=0) for tensor in view)
