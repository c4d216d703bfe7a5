"""Small methods and views to try them with."""

import torch

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import method_class
from fps_pretrain.models.encoders import build_encoder


def make(method, arch="resnet20", **options):
    torch.manual_seed(0)
    options = {"batch_size": 8, "epochs": 10, "pairs_per_epoch": 8, **options}
    config = PretrainConfig(method=method, arch=arch, **options)
    return method_class(method)(config, build_encoder(arch, seed=0))


def views(seed, size=16, count=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def loss_of(module, first, second):
    """The loss of two batches of views, and the first views' embeddings."""
    ours, theirs = module.embed_pair(first, second)
    return module.pair_loss(ours, theirs), ours[0]
