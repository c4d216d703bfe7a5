"""What each method computes, against a few lines of its own or lightly's words for it."""

import math

import pytest
import torch
import torchvision
from torch.nn import functional as F

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.method import names as available_methods
from fps_pretrain.config.pretrain import PretrainConfig
from tests.fps_pretrain.methods.small import loss_of, make, views


@pytest.mark.parametrize("method", available_methods())
def test_every_method_gives_a_loss_that_trains_its_encoder(method):
    module = make(method, method_options=("queue=16",) if method == "moco" else ())
    loss, embeddings = loss_of(module, views(1), views(2))
    assert loss.shape == ()
    assert embeddings.shape[0] == 8
    loss.backward()
    assert all(p.grad is not None for p in module.encoder.parameters())
    assert module.state_dict().keys() >= {f"encoder.{name}" for name in module.encoder.state_dict()}


@pytest.mark.parametrize("method", available_methods())
def test_an_option_that_a_method_does_not_have_is_refused(method):
    with pytest.raises(UserError, match="--method-options sharpness"):
        make(method, method_options=("sharpness=1",))


@pytest.mark.parametrize("text", ["temperature", "temperature=warm", "temperature=nan", "=3x"])
def test_method_options_are_numbers_by_name(text):
    with pytest.raises(UserError, match="--method-options"):
        PretrainConfig(method="moco", method_options=(text,))


@pytest.mark.parametrize("text", ["queue=4", "momentum=1", "temperature=0"])
def test_mocos_options_have_ranges(text):
    with pytest.raises(UserError, match=f"--method-options {text.split('=')[0]}"):
        make("moco", method_options=(text,))


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("simclr", "temperature=0"),
        ("byol", "momentum=1.1"),
        ("byol", "hidden=2.5"),
        ("byol", "hidden=1e19"),
        ("simclr", "hidden=1e19"),
        ("moco", "queue=1e30"),
        ("barlowtwins", "width=1e30"),
        ("vicreg", "width=1e30"),
        ("barlowtwins", "width=1"),
        ("barlowtwins", "redundancy=-1"),
        ("vicreg", "invariance=0"),
        ("vicreg", "covariance=-1"),
    ],
)
def test_options_of_the_other_methods_have_ranges(method, text):
    with pytest.raises(UserError, match=f"--method-options {text.split('=')[0]}"):
        make(method, method_options=(text,))


def embeddings_of(module):
    return module.projector(module.encoder(views(1))).double(), module.projector(module.encoder(views(2))).double()


def test_simclr_tells_a_view_from_all_others_of_the_batch():
    module = make("simclr", method_options=("temperature=0.3",))
    z = F.normalize(torch.cat(embeddings_of(module)), dim=1)
    similarity = (z @ z.T / 0.3).masked_fill(torch.eye(16, dtype=torch.bool), -math.inf)
    partner = torch.arange(16).roll(8)
    loss, _ = loss_of(module, views(1), views(2))
    assert loss.item() == pytest.approx(F.cross_entropy(similarity, partner).item(), rel=1e-5)


def test_barlow_twins_wants_the_cross_correlation_to_be_the_identity():
    module = make("barlowtwins", method_options=("width=24", "redundancy=0.02"))
    first, second = ((z - z.mean(0)) / z.std(0, correction=0) for z in embeddings_of(module))
    excess = first.T @ second / 8 - torch.eye(24)
    on = excess.diagonal().square().sum()
    expected = (on + 0.02 * (excess.square().sum() - on)) / 24
    loss, _ = loss_of(module, views(1), views(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_vicreg_weighs_invariance_variance_and_covariance():
    module = make("vicreg", method_options=("width=24", "variance=50", "covariance=5"))
    first, second = embeddings_of(module)
    variance = sum((1 - z.var(0).add(1e-4).sqrt()).relu().mean() for z in (first, second)) / 2
    covariance = sum((torch.cov(z.T) * (1 - torch.eye(24))).square().sum() / 24 for z in (first, second))
    expected = (first - second).square().mean() + 2 * variance + 0.2 * covariance
    loss, _ = loss_of(module, views(1), views(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_byol_compares_each_prediction_with_the_targets_of_the_other_view():
    module = make("byol")
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    loss, _ = loss_of(module, views(1), views(2))
    first, second = (module.predictor(module.projector(module.encoder(views(seed)))) for seed in (1, 2))
    theirs = [module.momentum_projector(module.momentum_encoder(views(seed))) for seed in (2, 1)]
    expected = -sum(F.cosine_similarity(p, t).mean() / 2 for p, t in zip((first, second), theirs, strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_byols_target_follows_ever_more_slowly(monkeypatch):
    module = make("byol", method_options=("momentum=0.9",))
    target = torch.nn.ModuleDict({"encoder": module.momentum_encoder, "projector": module.momentum_projector})
    start = {name: p.clone() for name, p in target.named_parameters()}
    with torch.no_grad():
        for parameter in (*module.encoder.parameters(), *module.projector.parameters()):
            parameter.add_(1.0)
    for step, share in ((0, 0.1), (9, 0.0)):  # ten steps in all: the momentum is 1 at the last
        monkeypatch.setattr(type(module), "global_step", step)
        moved = {name: p.clone() for name, p in target.named_parameters()}
        loss, _ = loss_of(module, views(1), views(2))
        for name, parameter in target.named_parameters():
            torch.testing.assert_close(parameter, moved[name] + share * (start[name] + 1 - moved[name]))
    loss.backward()
    assert all(p.grad is None for p in target.parameters())
    assert -1 <= loss.item() <= 1


def test_the_learning_rate_may_follow_its_cosine_at_every_step_after_a_warm_up():
    module = make("simsiam", schedule="step", warmup_pairs=32, lr=0.4)
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [rate for rate, _ in rates[:4]] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [rate for rate, _ in rates[4:]] == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])
    assert [fixed for _, fixed in rates] == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 7)


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_what_follows_slowly_is_not_trained(method):
    module = make(method, method_options=("queue=16",) if method == "moco" else ())
    followers = [p for name, p in module.named_parameters() if name.startswith("momentum_")]
    assert len(followers) > 10
    assert not any(p.requires_grad for p in followers)
    groups = module.configure_optimizers()["optimizer"].param_groups
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for name, p in module.named_parameters() if not name.startswith("momentum_")}


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_momentum_and_weight_decay_are_those_of_sgd(name):
    """LARS steps so with biases and BatchNorm, which it does not decay."""
    module = make("simclr", optimizer=name, momentum=0.8, weight_decay=0.1, lr=0.5)
    optimizer = module.configure_optimizers()["optimizer"]
    parameter = module.encoder.bn1.weight
    expected, velocity, decay = parameter.detach().clone(), torch.zeros(16), 0.1 if name == "sgd" else 0.0
    for step in (1, 2, 3):
        gradient = torch.arange(16.0) - 5 * step
        for p in module.parameters():
            p.grad = gradient.clone() if p is parameter else torch.zeros_like(p)
        optimizer.step()
        velocity = 0.8 * velocity + gradient + decay * expected
        expected = expected - 0.5 * velocity
        torch.testing.assert_close(parameter.detach(), expected)


def test_adamw_is_another_optimiser():
    made = make("simclr", optimizer="adamw", momentum=0.8, weight_decay=0.01).configure_optimizers()
    assert isinstance(made["optimizer"], torch.optim.AdamW)
    group = made["optimizer"].param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (pytest.approx(1e-3 * 8 / 256), (0.8, 0.999), 0.01)


@pytest.mark.parametrize("decay", [0.01, 0.0])
def test_lars_steps_by_a_layers_norm_and_leaves_batchnorm_to_plain_sgd(decay):
    module = make("simsiam", optimizer="lars", weight_decay=decay, momentum=0.0)
    optimizer = module.configure_optimizers()["optimizer"]
    decays = {id(p): pytest.approx(group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(p): decay if p.ndim > 1 else 0.0 for p in module.parameters()}
    before = {name: p.detach().clone() for name, p in module.encoder.named_parameters()}
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    lr = 0.3 * 8 / 256
    for name, p in module.encoder.named_parameters():
        w, g = before[name], torch.ones_like(p)
        if p.ndim > 1:  # equation 6, with its coefficient of a thousandth
            g = (g + decay * w) * 0.001 * w.norm() / (g.norm() + decay * w.norm())
        torch.testing.assert_close(p.detach(), w - lr * g, rtol=1e-4, atol=1e-8)


def test_simclrs_head_may_have_a_wider_hidden_layer():
    assert [p.shape for p in make("simclr").projector.parameters() if p.ndim == 2] == [(64, 64), (128, 64)]
    wide = make("simclr", method_options=("hidden=96",))
    assert [p.shape for p in wide.projector.parameters() if p.ndim == 2] == [(96, 64), (128, 96)]


def test_simsiam_compares_each_prediction_with_the_other_views_projection_which_no_gradient_reaches():
    module = make("simsiam")
    (z1, p1), (z2, p2) = module.embed_pair(views(1), views(2))
    assert p1.requires_grad
    assert not z1.requires_grad
    assert not z2.requires_grad
    expected = -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2
    torch.testing.assert_close(module.pair_loss((z1, p1), (z2, p2)), expected)


def test_simsiams_targets_may_be_centred():
    module = make("simsiam", method_options=("centre=1",))
    (z1, p1), (z2, p2) = module.embed_pair(views(1), views(2))
    loss = module.pair_loss((z1, p1), (z2, p2))
    expected = 0.0
    for p, z in ((p1, z2), (p2, z1)):
        target = F.normalize(z, dim=1)
        target = target - target.mean(0)
        expected = expected - 0.5 * (F.normalize(p, dim=1) * target).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    # A predictor that gives all views the same vector scores nothing, however skewed the targets are.
    skewed = torch.where(torch.arange(8).view(8, 1) == 0, 3.0, -0.4) * torch.ones(1, 512)
    constant = -torch.ones(8, 512)
    centred = module.pair_loss((skewed, constant), (skewed, constant))
    assert centred.item() == pytest.approx(0, abs=1e-6)
    assert make("simsiam").pair_loss((skewed, constant), (skewed, constant)) < -0.7
    with pytest.raises(UserError, match="--method-options centre"):
        make("simsiam", method_options=("centre=2",))


@pytest.mark.parametrize(("arch", "sizes"), [("resnet20", (64, 512, 128)), ("resnet18", (512, 2048, 512))])
def test_simsiam_has_the_papers_heads(arch, sizes):
    features, out, hidden = sizes
    module = make("simsiam", arch)
    shapes = [tuple(layer.weight.shape) for layer in module.projector.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(features, features), (features, features), (out, features)]
    shapes = [tuple(layer.weight.shape) for layer in module.predictor.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(hidden, out), (out, hidden)]
    assert not module.projector.layers[-1].affine


def test_simsiam_begins_with_residual_blocks_that_are_identities():
    reference = torchvision.models.resnet18(zero_init_residual=True)
    encoder = make("simsiam", "resnet18").encoder
    zero = {name for name, tensor in reference.state_dict().items() if name.endswith("bn2.weight")}
    assert {name for name, tensor in encoder.state_dict().items() if not tensor.any() and "weight" in name} == zero
    assert all(p.any() for name, p in make("moco", "resnet18").encoder.named_parameters() if "bn2.weight" in name)


def test_simsiams_predictor_keeps_its_learning_rate():
    module = make("simsiam", pairs_per_epoch=32)  # the cosine is over the ten epochs, not over their forty steps
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    start = 0.05 * 8 / 256
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([start / 2, start])
    predictor = {id(p) for p in module.predictor.parameters()}
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == predictor
