"""What the CIFAR ResNets compute, against a few lines of functions, and how their weights begin."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from fps_pretrain.methods.simsiam import zero_last_batchnorm
from fps_pretrain.models.encoders import build_classifier, build_encoder, check_encoder
from tests.fps_pretrain.models.trained import trained

Weights = dict[str, Tensor]


def normalised(x: Tensor, w: Weights, name: str) -> Tensor:
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / (var + 1e-5).sqrt()
    return (x - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + w[f"{name}.bias"].view(1, -1, 1, 1)


def block(x: Tensor, w: Weights, name: str, stride: int) -> Tensor:
    """He et al. (2016): the shortcut takes every other pixel and has zeros, half on each side, for the new channels."""
    out = normalised(F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), w, f"{name}.bn1").relu()
    out = normalised(F.conv2d(out, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2")
    if stride == 2:
        x = x[:, :, ::2, ::2]
        none = torch.zeros(len(x), x.shape[1] // 2, *x.shape[2:])
        x = torch.cat([none, x, none], dim=1)
    return (out + x).relu()


@pytest.mark.parametrize(("arch", "width", "blocks"), [("resnet8", 1, 1), ("resnet20", 2, 3)])
def test_features_are_those_of_the_paper(arch: str, width: int, blocks: int) -> None:
    encoder = trained(arch=arch, width=width).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # no scale is 1 and no bias is 0
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    w = encoder.state_dict()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = normalised(F.conv2d(images, w["conv1.weight"], padding=1), w, "bn1").relu()
    for stage in (1, 2, 3):
        for k in range(blocks):
            x = block(x, w, f"layer{stage}.{k}", 2 if stage > 1 and k == 0 else 1)
    assert x.shape == (2, 64 * width, 4, 4)
    torch.testing.assert_close(encoder(images), x.mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_convolutions_begin_as_he_et_al_draw_them() -> None:
    for name, weights in build_encoder("resnet20", seed=0).named_parameters():
        if weights.ndim == 4 and weights.numel() > 9_000:
            deviation = (2 / (9 * weights.shape[1])) ** 0.5
            assert weights.std().item() == pytest.approx(deviation, rel=0.03), name
            assert weights.abs().max() > 3 * deviation, name  # a normal distribution, not a uniform one


def test_a_check_leaves_the_mode_as_it_was() -> None:
    for training in (True, False):
        encoder = build_encoder("resnet8").train(training)
        check_encoder(encoder, "resnet8", 16)
        assert all(module.training == training for module in encoder.modules())


def test_a_head_is_drawn_from_its_seed_alone() -> None:
    heads = []
    for before, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(before)
        heads.append(build_classifier(build_encoder("resnet8", seed=0), 10, seed=seed).head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


def test_every_residual_block_of_torchvisions_may_begin_as_the_identity() -> None:
    """Also the blocks of three convolutions, from ResNet-50 on."""
    model = torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1])
    zero_last_batchnorm(model)
    reference = torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], zero_init_residual=True)
    zeros, expected = (
        {n for n, p in m.named_parameters() if "weight" in n and not p.any()} for m in (model, reference)
    )
    assert zeros == expected
    assert len(zeros) == 4


def test_auxiliary_classifiers_are_left_out() -> None:
    """With them GoogLeNet returns three outputs while it is trained."""
    encoder = build_encoder("googlenet", seed=0).train()
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)
