"""The optimiser of a method, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightly.utils.lars import LARS
from torch import nn

from fps_pretrain.config.pretrain import PretrainConfig

_NO_DECAY = 1e-300
"""0 in float32, and no 0 in float64: lightly's LARS adapts the rate only of what has a weight decay."""


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
    config: PretrainConfig, parameters: Iterable[nn.Parameter], fixed: Iterable[nn.Parameter]
) -> dict[str, Any]:
    """An optimiser with a cosine per epoch or step, in the form that Lightning takes.

    LARS (You et al., 2017) neither decays biases and BatchNorm nor adapts their rate (SimCLR's appendix B.1).

    Args:
        config: a configuration with its budget; its learning rate is the usual one unless it is given.
        parameters: what to train; those that need no gradient are left out.
        fixed: those of them whose learning rate does not decay; it does warm up.
    """
    assert config.epochs is not None
    assert config.batch_size is not None
    lr = config.lr if config.lr is not None else config.usual_lr
    constant = {id(p) for p in fixed}
    per_step = config.schedule == "step"
    total = config.total_steps if per_step else config.epochs
    warmup = (config.warmup_pairs or 0) // config.batch_size
    decay = cosine(total, warmup)

    # A group has one schedule and one weight decay.
    lars = config.optimizer == "lars"
    least = _NO_DECAY if lars else 0.0
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for p in (p for p in parameters if p.requires_grad):
        plain = lars and p.ndim < 2
        group = groups.setdefault((id(p) in constant, plain), {"params": []})
        group["params"].append(p)
        group["weight_decay"] = 0.0 if plain else max(config.weight_decay, least)
    keys = sorted(groups)
    factors = [(lambda now: decay(now) if now < warmup else 1.0) if kept else decay for kept, _ in keys]
    named = [groups[key] for key in keys]

    optimizer: torch.optim.Optimizer
    if lars:
        optimizer = LARS(named, lr=lr, momentum=config.momentum)
    elif config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(named, lr=lr, betas=(config.momentum, 0.999), fused=True)
    else:
        optimizer = torch.optim.SGD(named, lr=lr, momentum=config.momentum, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    interval = "step" if per_step else "epoch"
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}
