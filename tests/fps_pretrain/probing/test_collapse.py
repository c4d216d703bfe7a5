"""The alarm for each kind of collapse, and the values it goes by."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.base import method_class
from fps_pretrain.methods.signals import effective_rank, shuffled, spread
from fps_pretrain.models.checkpoint import load_encoder
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.pairs.data_module import make_source
from fps_pretrain.probing.collapse import INFORMATION_DUE, WINDOW, CollapseAlarm
from tests.conftest import REPOSITORY


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values_of(ours, theirs, loss):
    """What a step logs of embeddings ``(N, D)`` of both views."""
    return {
        "embedding_spread": spread(ours),
        "embedding_rank": effective_rank(F.normalize(ours, dim=1)),
        "loss": loss(ours, theirs),
        "loss_shuffled": loss(ours, *shuffled((theirs,))),
    }


def cosine_loss(ours, theirs):
    return -F.cosine_similarity(ours, theirs).mean()


def hear(capsys, alarm, values, steps):
    """What the alarm says at each of some steps."""
    said = []
    for step in steps:
        trainer = SimpleNamespace(callback_metrics=values(step), global_step=step, is_global_zero=True)
        alarm.on_train_batch_end(trainer, None)
        said.append(capsys.readouterr().err)
    return said


def test_the_collapse_alarm_speaks_once_and_again_when_it_is_over(capsys):
    alarm = CollapseAlarm(every=1, total_steps=100, batch_size=8)

    def see(spread, step):
        trainer = SimpleNamespace(callback_metrics={"embedding_spread": spread}, global_step=step, is_global_zero=True)
        alarm.on_train_batch_end(trainer, None)
        return capsys.readouterr().err

    assert not any(see(0.05, step) for step in range(1, 20))  # a low start is usual without BatchNorm
    assert not see(0.9, 20)
    said = [see(0.02, step) for step in range(21, 26)]
    assert [bool(text) for text in said] == [False, False, True, False, False]
    assert "collapsed at step 23" in said[2]
    assert "--lr" in said[2]
    assert "spread again" in see(0.8, 26)


def test_the_alarm_looks_where_the_log_has_a_line_and_early_once_a_value_was_good(capsys):
    """Between two lines the values are those of the last one."""
    alarm = CollapseAlarm(every=10, total_steps=1_000, batch_size=8)
    said = hear(capsys, alarm, lambda step: {"embedding_spread": 0.9 if step < 20 else 0.02}, range(1, 60))
    assert [step for step, text in enumerate(said, 1) if text] == [40]


def test_the_rank_of_rounding_errors_is_no_alarm(capsys):
    """What is left where all embeddings are one vector."""
    alarm = CollapseAlarm(every=1, total_steps=10, batch_size=8)
    said = "".join(hear(capsys, alarm, lambda _: {"embedding_spread": 0.001, "embedding_rank": 1.0}, range(1, 30)))
    assert said.count("warning: ") == 1
    assert "their spread is 0.001" in said


def test_embeddings_at_one_point_are_an_alarm_of_one_kind(capsys):
    """One vector with a little noise, as SimSiam without its stop-gradient ends."""

    def values(step):
        point = draw(1, 32)
        return values_of(*(point + 0.01 * draw(256, 32, seed=seed) for seed in (step, 1000 + step)), cosine_loss)

    said = hear(capsys, CollapseAlarm(every=1, total_steps=10, batch_size=10_000), values, range(1, 40))
    assert sum(map(bool, said)) == 1
    assert "embeddings have collapsed at step" in "".join(said)


def test_embeddings_on_a_line_are_an_alarm_whatever_their_spread(capsys):
    """Skewed along one direction, as plain SimSiam ends on fractal pairs: the spread is far from 0."""

    def values(step):
        side = torch.where(draw(256, 1, seed=step) > 0.8, 2.0, -0.5)
        line = side * draw(1, 32)
        return values_of(line + 0.02 * draw(256, 32, seed=step), line, cosine_loss)

    assert values(1)["embedding_spread"] > 0.6
    said = hear(capsys, CollapseAlarm(every=1, total_steps=10, batch_size=8), values, range(1, 20))
    assert sum(map(bool, said)) == 1
    for words in ("one dimension", "effective rank is 1.", "centre=1", "--method simclr"):
        assert words in "".join(said)


def test_the_alarm_hears_a_run_whose_pairs_have_nothing_in_common(capsys):
    """SimSiam's own embeddings and loss, for first and second views of different images."""
    torch.manual_seed(0)
    config = PretrainConfig(method="simsiam", batch_size=32, epochs=1, pairs_per_epoch=32, size=16)
    module = method_class("simsiam")(config, build_encoder("resnet20", seed=0))
    alarm = CollapseAlarm(every=1, total_steps=100, batch_size=INFORMATION_DUE // WINDOW)

    def unrelated(step):
        first, second = draw(32, 3, 16, 16, seed=step), draw(32, 3, 16, 16, seed=1000 + step)
        with torch.no_grad():
            ours, theirs = module.embed_pair(first, second)
            losses = {"loss": module.pair_loss(ours, theirs), "loss_shuffled": module.pair_loss(ours, shuffled(theirs))}
        return {"embedding_spread": spread(ours[0]), "embedding_rank": effective_rank(ours[0]), **losses}

    said = hear(capsys, alarm, unrelated, range(1, 61))
    assert not any(said[: WINDOW - 1])  # not before it is due
    assert sum(map(bool, said)) == 1
    for words in ("no pair information", "--composed-views 1", "--method simclr"):
        assert words in "".join(said)
    # Embeddings that know their pairs end it.
    related = {"embedding_spread": 0.9, "embedding_rank": 20.0, "loss": -0.5, "loss_shuffled": -0.4}
    assert "closer than unrelated ones again" in "".join(hear(capsys, alarm, lambda step: related, range(61, 90)))
    healthy = CollapseAlarm(every=1, total_steps=100, batch_size=INFORMATION_DUE // WINDOW)
    assert not any(hear(capsys, healthy, lambda step: related, range(1, 60)))


def test_the_effective_rank_counts_dimensions():
    basis = torch.linalg.qr(draw(64, 64)).Q
    for count in (1, 2, 5):
        signs = torch.cat([torch.eye(count), -torch.eye(count)]).repeat(20, 1)
        assert effective_rank(3 + signs @ basis[:count]).item() == pytest.approx(count, rel=1e-4)
    many, few = draw(500, 16), draw(16, 500)
    assert effective_rank(many) > 15
    assert 14 < effective_rank(few) <= 15 + 1e-6  # at most N - 1
    shares = torch.linalg.svdvals(torch.cov(few.double().T))
    shares = shares[:15] / shares[:15].sum()
    assert effective_rank(few).item() == pytest.approx((-(shares * shares.log()).sum()).exp().item(), rel=1e-4)
    assert effective_rank(many * float("nan")).isnan()


def test_the_alarm_knows_an_encoder_that_has_collapsed(capsys):
    """Plain SimSiam after 1,024,000 pairs uses one dimension, below a head that hides it; shipped encoders use many."""
    views = make_source(PretrainConfig(), torch.device("cpu")).batch(0, 0, 128)[0]
    collapsed = "the features have collapsed to one dimension"
    files = {name: REPOSITORY / "checkpoints" / f"{name}.pt" for name in ("fps_r20", "fps_r20_simsiam", "fps_r20_moco")}
    files["collapsed"] = Path(__file__).with_name("collapsed.pt")
    ranks = {}
    for name, file in files.items():
        encoder = load_encoder(file)
        with torch.no_grad():
            ranks[name] = effective_rank(encoder(views)).item()
    assert ranks["collapsed"] < 1.5
    assert min(rank for name, rank in ranks.items() if name != "collapsed") > 4
    for name, words in (("fps_r20", ""), ("fps_r20_moco", ""), ("fps_r20_simsiam", ""), ("collapsed", collapsed)):
        values = {"embedding_spread": 0.65, "embedding_rank": 4.0, "feature_rank": ranks[name]}
        alarm = CollapseAlarm(every=1, total_steps=10, batch_size=8)
        said = "".join(hear(capsys, alarm, lambda step, values=values: values, range(1, 20)))
        assert words in said
        assert bool(said) == bool(words)


def test_shuffling_moves_every_row_and_draws_nothing():
    before = torch.get_rng_state()
    rows = torch.arange(6.0).view(6, 1)
    (moved,) = shuffled((rows,))
    assert torch.equal(moved.sort(dim=0).values, rows)
    assert not (moved == rows).any()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("method", ["simsiam", "moco", "simclr", "byol", "barlowtwins", "vicreg"])
def test_the_loss_on_shuffled_pairs_has_no_side_effects(method):
    torch.manual_seed(0)
    options = ("queue=16",) if method == "moco" else ()
    config = PretrainConfig(method=method, method_options=options, batch_size=8, epochs=10, pairs_per_epoch=8)
    module: nn.Module = method_class(method)(config, build_encoder("resnet20", seed=0))
    first = draw(8, 3, 16, 16)
    ours, theirs = module.embed_pair(first, first + 0.01 * draw(8, 3, 16, 16, seed=1))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    loss = module.pair_loss(ours, theirs)
    other = module.pair_loss(ours, shuffled(theirs))
    # A predictor with random weights knows no pair yet.
    assert other != loss if method in ("simsiam", "byol") else other > loss
    assert torch.equal(module.pair_loss(ours, theirs), loss)
    assert torch.equal(random, torch.get_rng_state())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
