"""MoCo: its loss, its queue, its keys and its head."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch.nn import functional as F

from fps_pretrain.common.errors import UserError
from fps_pretrain.methods.moco import KeyQueue, info_nce
from tests.fps_pretrain.methods.small import loss_of, make, views


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


def test_mocos_loss_is_over_all_negatives_of_a_long_queue():
    """More than are multiplied at a time."""
    draw = torch.Generator().manual_seed(0)
    queries, keys, negatives = (F.normalize(torch.randn(n, 6, generator=draw), dim=1) for n in (3, 3, 2_500))
    ours, theirs = (queries.clone().requires_grad_() for _ in range(2))
    loss = info_nce(ours, keys, negatives, 0.2)
    logits = torch.cat([(theirs * keys).sum(dim=1, keepdim=True), theirs @ negatives.T], dim=1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_mocos_queue_holds_a_batch_at_least():
    assert len(make("moco", method_options=("queue=8",)).queue.bank) == 8
    with pytest.raises(UserError, match="queue=7 must be at least the batch size, 8"):
        make("moco", method_options=("queue=7",))


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
    loss, _ = loss_of(module, batch, views(2))
    loss.backward()
    assert all(p.grad is not None for p in module.projector.parameters())


def test_moco_takes_keys_from_a_momentum_encoder_and_queues_them():
    module = make("moco", method_options=("queue=16", "momentum=0.75"))
    assert math.isclose(module.options.temperature, 0.2)
    followers = torch.nn.ModuleDict({"encoder": module.momentum_encoder, "projector": module.momentum_projector})
    before = {name: p.clone() for name, p in followers.named_parameters()}
    bank = module.queue.bank.clone()
    with torch.no_grad():
        for parameter in (*module.encoder.parameters(), *module.projector.parameters()):
            parameter.add_(1.0)
    loss, queries = loss_of(module, views(1), views(2))
    assert torch.equal(module.queue.bank, bank)  # not before backpropagation, which needs the old ones
    loss.backward()
    module.on_after_backward()
    for name, parameter in followers.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)
        assert parameter.grad is None
    torch.testing.assert_close(queries.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(module.queue.bank[:8].norm(dim=1), torch.ones(8))
    assert not torch.equal(module.queue.bank[:8], bank[:8])
    assert torch.equal(module.queue.bank[8:], bank[8:])
    kept = module.state_dict()
    assert {"queue.bank", "queue.bank_ptr"} <= kept.keys()
    assert int(kept["queue.bank_ptr"]) == 8


def test_mocos_queries_are_of_the_first_views_and_its_keys_of_the_second():
    module = make("moco", method_options=("queue=16", "temperature=0.1", "group=0"))
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    (queries,), (keys,) = module.embed_pair(views(1), views(2))
    assert not keys.requires_grad
    with torch.no_grad():
        expected = module.projector(module.encoder(views(1)))
        torch.testing.assert_close(queries, F.normalize(expected, dim=1))
        expected = module.momentum_projector(module.momentum_encoder(views(2)))
        torch.testing.assert_close(keys, F.normalize(expected, dim=1))
    assert torch.equal(module.pair_loss((queries,), (keys,)), info_nce(queries, keys, module.queue.bank, 0.1))


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
    with pytest.raises(UserError, match=r"--method-options group must be 0 \(the whole batch\) or at least 2, got 1"):
        make("moco", method_options=("group=1",))


@pytest.mark.parametrize(("batch", "group", "fits"), [(3, 2, False), (7, 2, False), (4, 2, True), (7, 3, True)])
def test_moco_normalises_no_view_alone(batch, group, fits):
    options = {"batch_size": batch, "pairs_per_epoch": 16, "method_options": (f"group={group}", "queue=16")}
    if fits:
        module = make("moco", **options)
        loss_of(module, views(1, count=batch), views(2, count=batch))
    else:
        with pytest.raises(UserError, match=f"group={group} leaves a group of one view in a batch of {batch}"):
            make("moco", **options)


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
        loss, queries = loss_of(module, first, second)
        optimizer.zero_grad()
        loss.backward()
        module.on_after_backward()
        optimizer.step()
        losses.append(loss.item())
    filled = losses[8:]  # before that the queue holds random vectors, from which a key is easily told
    assert sum(filled[-5:]) / 5 < sum(filled[:5]) / 5 - 0.7
    assert queries.std(dim=0).mean() * math.sqrt(128) > 0.8
