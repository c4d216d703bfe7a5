"""What training does with losses and weights."""

import shutil
import signal

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fps_pretrain.common.errors import TrainingDiverged, UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models import checkpoint
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.probing import quality
from fps_pretrain.training import resume as state
from fps_pretrain.training import run as train
from fps_pretrain.training.trainer import build_method
from tests.fps_pretrain.training.runs import run


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, no_probe, monkeypatch):
    """Also when the weights are spoilt before the loss: a state with them in it is never saved."""
    step = train.PairMethod.training_step

    def spoil(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * float("inf") if self.global_step == 3 else loss  # gradients that are not finite

    monkeypatch.setattr(train.PairMethod, "training_step", spoil)
    with pytest.raises(TrainingDiverged, match="step 3") as error:
        run(tmp_path, state_every=0.0)
    assert error.value.exit_code == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "out.pt").exists()
    kept = checkpoint.read_file(state.newest_state(tmp_path / "run"))
    assert kept["global_step"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in kept["state_dict"].values())

    monkeypatch.setattr(train.PairMethod, "training_step", step)
    with pytest.raises(TrainingDiverged, match="loss is nan or infinite at step"):
        run(tmp_path / "other", lr=1e30)


def test_training_lowers_the_loss_and_logs_it(baseline, tmp_path, no_probe):
    # Plain SimSiam, whose loss a constant prediction lowers soon; centred targets need many more pairs.
    plain = {"method_options": ("centre=0",)}
    rows = run(tmp_path, epochs=4, pairs_per_epoch=320, batch_size=32, classes=50, lr=0.2, **plain)["log"]
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.02
    assert all(0 < float(row["embedding_spread"]) <= 1.1 for row in rows)
    lrs = [float(row["lr"]) for row in rows]
    assert lrs[0] == pytest.approx(0.2)
    assert float(baseline["log"][0]["lr"]) == pytest.approx(0.05 * 8 / 256)  # the default, linear in the batch
    assert lrs[-1] == pytest.approx(lrs[0] * 0.5 * (1 + np.cos(np.pi * 3 / 4)))
    for row in rows:
        assert 1 <= float(row["embedding_rank"]) <= 31
        assert 1 <= float(row["feature_rank"]) <= 63
        assert float(row["gradient_norm"]) > 0
    gaps = [float(row["loss_shuffled"]) - float(row["loss"]) for row in rows]
    assert abs(np.mean(gaps[:5])) < 0.02  # a random predictor knows no pairs
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "version_0")).Reload()
    assert {"loss", "loss_shuffled", "embedding_rank", "feature_rank", "gradient_norm"} <= set(events.Tags()["scalars"])


def test_the_average_of_the_weights_is_what_is_written(baseline, tmp_path, no_probe, monkeypatch):
    """After every step 3/4 of the average so far and 1/4 of the weights; training goes on as without it."""
    save = state.StateIO.save_checkpoint
    steps = []

    def save_and_keep(self, content, path, storage_options=None):
        steps.append({name: tensor.clone() for name, tensor in content["current_model_state"].items()})
        save(self, content, path)

    monkeypatch.setattr(state.StateIO, "save_checkpoint", save_and_keep)
    averaged = run(tmp_path, ema=0.75, save_every=1, state_every=0.0)
    assert [row["loss"] for row in averaged["log"]] == [row["loss"] for row in baseline["log"]]
    name = "encoder.conv1.weight"
    average = steps[0][name]
    for weights in steps[1:6]:  # the last save comes after the end
        average = 0.75 * average + 0.25 * weights[name]
    written = checkpoint.read_file(tmp_path / "out.pt")["state_dict"]
    assert torch.allclose(written["conv1.weight"], average, atol=1e-7)
    assert not torch.allclose(written["conv1.weight"], steps[5][name], atol=1e-7)
    assert written["bn1.num_batches_tracked"] == steps[5]["encoder.bn1.num_batches_tracked"], "a count is no average"
    last = checkpoint.read_file(tmp_path / "run" / "encoder-epoch002.pt")["state_dict"]
    assert all(torch.equal(last[name], written[name]) for name in written)


def test_an_encoder_is_compared_with_random_weights_as_they_are_drawn(tmp_path, no_probe, monkeypatch):
    """SimSiam zeroes the last BatchNorm of every block of torchvision's before training, which is no part of that."""
    measured = []
    measure = quality.QualityProbe.measure

    def keep(self, encoder):
        measured.append({name: tensor.clone() for name, tensor in encoder.state_dict().items()})
        return measure(self, encoder)

    monkeypatch.setattr(quality.QualityProbe, "measure", keep)
    run(tmp_path, method="simsiam", arch="resnet18", epochs=1, pairs_per_epoch=8, seed=3, lr=1e-9)
    expected = build_encoder("resnet18", seed=3).state_dict()
    assert all(torch.equal(measured[0][name], tensor) for name, tensor in expected.items())
    assert measured[-1]["layer1.0.bn2.weight"].abs().max() < 1e-3  # what is trained begins with zeros


def test_the_seed_alone_draws_the_encoder_and_the_heads():
    made = []
    for before, seed in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(before)
        config = PretrainConfig(method="simclr", arch="resnet8", size=16, seed=seed).resolve(has_gpu=False)
        method = build_method(config)
        expected = build_encoder("resnet8", seed=seed).state_dict()
        assert all(torch.equal(method.encoder.state_dict()[name], tensor) for name, tensor in expected.items())
        made.append(method.projector.layers[0].weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


@pytest.mark.parametrize(("size", "share"), [(16, 1.0), (64, 1.0), (128, 0.25)])
def test_a_cpu_probes_fewer_images_where_they_are_large(size, share, tmp_path, monkeypatch):
    def load(where, size, share):
        raise UserError(f"share {share}")

    monkeypatch.setattr(train, "load_probe_data", load)
    with pytest.raises(UserError, match=f"^share {share}$"):
        run(tmp_path, size=size)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same_every_time(tmp_path, no_probe):
    plain = run(tmp_path / "plain", method="simclr")
    compiled = run(tmp_path / "compiled", method="simclr", compile=True)
    for mine, theirs in zip(compiled["log"], plain["log"], strict=True):
        assert float(mine["loss"]) == pytest.approx(float(theirs["loss"]), abs=0.02)
    weights = (checkpoint.read_file(tmp_path / name / "out.pt")["state_dict"] for name in ("plain", "compiled"))
    assert next(weights).keys() == next(weights).keys()
    assert run(tmp_path / "again", method="simclr", compile=True)["digest"] == compiled["digest"]
