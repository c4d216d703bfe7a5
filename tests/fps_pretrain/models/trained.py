"""Encoders for the tests of checkpoints."""

import torch

from fps_pretrain.models.encoders import build_encoder


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def trained(seed=1, arch="resnet20", width=1):
    """An encoder whose BatchNorm statistics are not the initial ones either."""
    encoder = build_encoder(arch, width, seed)
    with torch.no_grad():
        encoder(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    return encoder
