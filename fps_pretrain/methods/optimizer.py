"""The optimiser of a method, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fps_pretrain.config.pretrain import PretrainConfig

ADAMW_REFERENCE_LR = 1e-3
"""AdamW's learning rate for a batch of 256 where no other is given, for every method."""


def cosine(total: int, warmup: int = 0) -> Callable[[int], float]:
    """Factor of the learning rate at each of ``total`` epochs or steps: from 1 towards 0 (Chen and He, section 4).

    During the first ``warmup`` of them it rises linearly to 1 (Goyal et al., 2017, section 2.2).
    """

    def factor(now: int) -> float:
        if now < warmup:
            return (now + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * min((now - warmup) / max(1, total - warmup), 1.0)))

    return factor


def make_optimizer(
    config: PretrainConfig, parameters: Iterable[nn.Parameter], fixed: Iterable[nn.Parameter], reference_lr: float
) -> dict[str, Any]:
    """SGD or AdamW with a cosine per epoch or step, in the form that Lightning takes.

    Args:
        config: a resolved configuration.
        parameters: what to train; those that need no gradient are left out.
        fixed: those of them whose learning rate does not decay; it does warm up.
        reference_lr: SGD's learning rate for a batch of 256, where the configuration has none.
    """
    assert config.epochs is not None
    assert config.batch_size is not None
    reference = reference_lr if config.optimizer == "sgd" else ADAMW_REFERENCE_LR
    lr = config.lr if config.lr is not None else reference * config.batch_size / 256
    constant = {id(p) for p in fixed}
    trained = [p for p in parameters if p.requires_grad]
    per_step = config.schedule == "step"
    total = config.total_steps if per_step else config.epochs
    warmup = (config.warmup_pairs or 0) // config.batch_size
    decay = cosine(total, warmup)
    groups = [
        ([p for p in trained if id(p) not in constant], decay),
        ([p for p in trained if id(p) in constant], lambda now: decay(now) if now < warmup else 1.0),
    ]
    kept = [(group, factor) for group, factor in groups if group]
    named = [{"params": group} for group, _ in kept]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        optimizer = torch.optim.AdamW(named, lr=lr, betas=betas, weight_decay=config.weight_decay, fused=True)
    else:
        optimizer = torch.optim.SGD(
            named, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [factor for _, factor in kept])
    interval = "step" if per_step else "epoch"
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}
