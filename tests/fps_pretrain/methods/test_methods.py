"""What each method computes, against a few lines of its own or lightly's words for it."""

import math

import pytest
import torch
import torchvision
from lightly.loss import NTXentLoss
from torch.nn import functional as F

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.method import names as available_methods
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import method_class
from fps_pretrain.methods.moco import KeyQueue, info_nce
from fps_pretrain.models.encoders import build_encoder


def make(method, arch="resnet20", **options):
    torch.manual_seed(0)
    config = PretrainConfig(method=method, arch=arch, batch_size=8, epochs=10, pairs_per_epoch=8, **options)
    return method_class(method)(config, build_encoder(arch, seed=0))


def views(seed, size=16, count=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", available_methods())
def test_every_method_gives_a_loss_that_trains_its_encoder(method):
    module = make(method, method_options=("queue=16",) if method == "moco" else ())
    loss, embeddings = module.forward_pair(views(1), views(2))
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
    loss, _ = module.forward_pair(views(1), views(2))
    assert loss.item() == pytest.approx(F.cross_entropy(similarity, partner).item(), rel=1e-5)


def test_barlow_twins_wants_the_cross_correlation_to_be_the_identity():
    module = make("barlowtwins", method_options=("width=24", "redundancy=0.02"))
    first, second = ((z - z.mean(0)) / z.std(0, correction=0) for z in embeddings_of(module))
    excess = first.T @ second / 8 - torch.eye(24)
    on = excess.diagonal().square().sum()
    expected = (on + 0.02 * (excess.square().sum() - on)) / 24
    loss, _ = module.forward_pair(views(1), views(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_vicreg_weighs_invariance_variance_and_covariance():
    module = make("vicreg", method_options=("width=24", "variance=50", "covariance=5"))
    first, second = embeddings_of(module)
    variance = sum((1 - z.var(0).add(1e-4).sqrt()).relu().mean() for z in (first, second)) / 2
    covariance = sum((torch.cov(z.T) * (1 - torch.eye(24))).square().sum() / 24 for z in (first, second))
    expected = (first - second).square().mean() + 2 * variance + 0.2 * covariance
    loss, _ = module.forward_pair(views(1), views(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_byols_target_follows_ever_more_slowly(monkeypatch):
    module = make("byol", method_options=("momentum=0.9",))
    start = {name: p.clone() for name, p in module.momentum_encoder.named_parameters()}
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.add_(1.0)
    for step, share in ((0, 0.1), (9, 0.0)):  # ten steps in all: the momentum is 1 at the last
        monkeypatch.setattr(type(module), "global_step", step)
        moved = {name: p.clone() for name, p in module.momentum_encoder.named_parameters()}
        loss, _ = module.forward_pair(views(1), views(2))
        for name, parameter in module.momentum_encoder.named_parameters():
            torch.testing.assert_close(parameter, moved[name] + share * (start[name] + 1 - moved[name]))
    loss.backward()
    assert all(p.grad is None for p in module.momentum_encoder.parameters())
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


def test_adamw_is_another_optimiser():
    made = make("simclr", optimizer="adamw", momentum=0.8, weight_decay=0.01).configure_optimizers()
    assert isinstance(made["optimizer"], torch.optim.AdamW)
    group = made["optimizer"].param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (pytest.approx(1e-3 * 8 / 256), (0.8, 0.999), 0.01)


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
    module = make("simsiam")
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    start = 0.05 * 8 / 256
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([start / 2, start])
    predictor = {id(p) for p in module.predictor.parameters()}
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == predictor


def test_mocos_loss_is_lightlys_and_so_is_its_gradient():
    reference = NTXentLoss(temperature=0.2, memory_bank_size=(32, 5))
    queue = KeyQueue(32, 5)
    queue.bank.copy_(reference.memory_bank.bank)
    keys = F.normalize(torch.randn(8, 5), dim=1)
    ours, theirs = (torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    loss = info_nce(F.normalize(ours, dim=1), keys, queue.bank, 0.2)
    expected = reference(theirs, keys)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    queue.enqueue(keys)
    torch.testing.assert_close(queue.bank, reference.memory_bank.bank)


def test_mocos_similarities_are_float32_whatever_the_precision():
    """In bfloat16 similarities that are nearly alike, as at the start, would be the same few numbers."""
    queries, keys = (F.normalize(1 + 0.01 * torch.randn(8, 64), dim=1).requires_grad_() for _ in range(2))
    bank = F.normalize(1 + 0.01 * torch.randn(2_000, 64), dim=1)
    losses = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses.append(info_nce(queries, keys, bank, 0.2))
    assert torch.equal(*losses)
    assert losses[1].dtype == torch.float32


def test_mocos_head_may_have_batchnorm_and_take_the_whole_batch():
    module = make("moco", method_options=("queue=16", "head_batchnorm=1", "group=0"))
    layers = list(module.projector.layers)
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert (layers[1].affine, layers[4].affine) == (True, False)
    assert (layers[3].weight.shape, layers[4].num_features) == ((128, 64), 128)
    batch = views(1)
    with torch.no_grad():
        expected = F.normalize(module.projector(module.encoder(batch)), dim=1)
        torch.testing.assert_close(module._encode_queries(batch), expected)
        torch.testing.assert_close(module._encode_keys(batch), expected)
    loss, _ = module.forward_pair(batch, views(2))
    loss.backward()
    assert all(p.grad is not None for p in module.projector.parameters())


def test_moco_takes_keys_from_a_momentum_encoder_and_queues_them():
    module = make("moco", method_options=("queue=16", "momentum=0.75"))
    assert math.isclose(module.options.temperature, 0.2)
    before = {name: p.clone() for name, p in module.momentum_encoder.named_parameters()}
    bank = module.queue.bank.clone()
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.add_(1.0)
    loss, queries = module.forward_pair(views(1), views(2))
    assert torch.equal(module.queue.bank, bank)  # not before backpropagation, which needs the old ones
    loss.backward()
    module.on_after_backward()
    for name, parameter in module.momentum_encoder.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)
        assert parameter.grad is None
    torch.testing.assert_close(queries.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(module.queue.bank[:8].norm(dim=1), torch.ones(8))
    assert not torch.equal(module.queue.bank[:8], bank[:8])
    assert torch.equal(module.queue.bank[8:], bank[8:])
    kept = module.state_dict()
    assert {"queue.bank", "queue.bank_ptr"} <= kept.keys()
    assert int(kept["queue.bank_ptr"]) == 8


def test_moco_normalises_a_query_and_its_key_with_different_views():
    """On one device, where there is nobody to shuffle keys with, a view reaches the statistics of its group only."""
    module = make("moco", method_options=("queue=16", "group=4"))
    batch = views(1)

    def groups(encode):
        """For each view, the views whose embeddings change with it."""
        before = encode(batch)
        changed = []
        for index in range(len(batch)):
            other = batch.clone()
            other[index] += 1.0
            difference = (encode(other) - before).abs().amax(dim=1)
            changed.append(set(torch.nonzero(difference > 1e-5).flatten().tolist()))
        return changed

    with torch.no_grad():
        queries, keys = groups(module._encode_queries), groups(module._encode_keys)
    assert queries == [{0, 1, 2, 3}] * 4 + [{4, 5, 6, 7}] * 4
    assert keys == [{0, 2, 4, 6}, {1, 3, 5, 7}] * 4
    module = make("moco", method_options=("queue=16", "group=8"))
    with torch.no_grad():
        assert groups(module._encode_keys) == [set(range(8))] * 8
    with pytest.raises(UserError, match="group=1 must be"):
        make("moco", method_options=("group=1",))


def test_moco_learns_to_tell_images_apart():
    """Sixteen patches of colour with noise: the loss falls and the embeddings, which begin close together, spread."""
    module = make("moco", method_options=("queue=256", "momentum=0.99"), lr=0.05)
    optimizer = module.configure_optimizers()["optimizer"]
    draw = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.randn(512, 3, 4, 4, generator=draw), scale_factor=4)
    losses = []
    for _ in range(70):
        batch = images[torch.randint(512, (32,), generator=draw)]
        first, second = (batch + 0.3 * torch.randn(batch.shape, generator=draw) for _ in range(2))
        loss, queries = module.forward_pair(first, second)
        optimizer.zero_grad()
        loss.backward()
        module.on_after_backward()
        optimizer.step()
        losses.append(loss.item())
    filled = losses[8:]  # before that the queue holds random vectors, from which a key is easily told
    assert sum(filled[-5:]) / 5 < sum(filled[:5]) / 5 - 0.7
    assert queries.std(dim=0).mean() * math.sqrt(128) > 0.8
