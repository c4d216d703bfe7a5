"""Encoder checkpoints that are written and read, ours and those of others."""

import errno
import io
import os
import tracemalloc
from pathlib import Path

import pytest
import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.models import checkpoint, checksum, tensor_file
from fps_pretrain.models.encoders import build_classifier, build_encoder, check_encoder
from tests.fps_pretrain.models.trained import same, trained


def test_resnet20_has_the_papers_size_and_is_the_same_for_a_seed():
    assert sum(p.numel() for p in build_encoder("resnet20").parameters()) == 269_072
    assert same(build_encoder("resnet20", seed=4), build_encoder("resnet20", seed=4))
    assert not same(build_encoder("resnet20", seed=4), build_encoder("resnet20", seed=5))
    before = torch.get_rng_state()
    build_classifier(build_encoder("resnet32", 2, seed=1), 10, seed=2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("arch", "width"), [("resnet20", 1), ("resnet32", 2), ("resnet18", 1)])
def test_round_trip(tmp_path, arch, width):
    source = trained(arch=arch, width=width)
    digest, kept = checkpoint.save_encoder(tmp_path / "a.pt", source, arch, width, {"method": "simsiam", "seed": 1})
    assert kept is None
    target = build_encoder(arch, width, 9)
    report = checkpoint.load_encoder_weights(tmp_path / "a.pt", target, arch, width)
    assert same(source, target)
    assert report.matched == len(source.state_dict())
    assert not report.missing
    assert not report.unexpected
    assert report.provenance["digest"] == digest == checksum.digest(target.state_dict())
    assert report.provenance["method"] == "simsiam"


def test_an_existing_file_is_kept_unless_it_holds_the_same_weights(tmp_path):
    path = tmp_path / "fps_r20.pt"
    checkpoint.save_encoder(path, trained(1), "resnet20", 1, {})
    first = path.read_bytes()
    assert checkpoint.save_encoder(path, trained(1), "resnet20", 1, {})[1] is None
    assert os.listdir(tmp_path) == ["fps_r20.pt"]
    for seed in (2, 3):
        _, kept = checkpoint.save_encoder(path, trained(seed), "resnet20", 1, {})
        assert kept == tmp_path / f"fps_r20.{seed - 1}.pt"
    assert (tmp_path / "fps_r20.1.pt").read_bytes() == first
    path.write_bytes(b"not a checkpoint")
    _, kept = checkpoint.save_encoder(path, trained(4), "resnet20", 1, {})
    assert kept is not None
    assert kept.read_bytes() == b"not a checkpoint"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    tensor_file.write_atomically(path, {"a": 1})
    old = path.read_bytes()

    def full_disk(payload, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        tensor_file.write_atomically(path, {"a": 2})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_full_disk_is_reported_with_the_file(tmp_path, monkeypatch):
    class FullDisk(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda payload, file: save(payload, FullDisk()))
    with pytest.raises(OSError, match="No space left") as error:
        tensor_file.write_atomically(tmp_path / "a.pt", {"a": torch.ones(2)})
    assert error.value.filename == str(tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cause", [KeyboardInterrupt, OSError])
def test_what_cut_a_write_short_is_what_the_caller_sees(tmp_path, monkeypatch, cause):
    """Ctrl-C or a full disk in mid-archive: not torch's complaint of a position it did not expect."""
    path = tmp_path / "a.pt"
    tensor_file.write_atomically(path, {"a": 1})
    old = path.read_bytes()
    opened = Path.open

    def failing_open(self, *args, **options):
        file = opened(self, *args, **options)
        if self.name.endswith(".partial"):
            monkeypatch.setattr(file, "write", lambda data: (_ for _ in ()).throw(cause("cut short")), raising=False)
        return file

    monkeypatch.setattr(Path, "open", failing_open)
    with pytest.raises(cause, match="cut short"):
        tensor_file.write_atomically(path, {"a": torch.zeros(100_000)})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.pt"]


def test_an_encoder_file_says_how_to_build_it(tmp_path):
    source = trained(arch="resnet18")
    checkpoint.save_encoder(tmp_path / "a.pt", source, "resnet18", 1, {})
    loaded = checkpoint.load_encoder(tmp_path / "a.pt")
    assert same(source, loaded)
    assert not loaded.training
    torch.save(source.state_dict(), tmp_path / "bare.pt")
    with pytest.raises(UserError, match="does not name its architecture"):
        checkpoint.load_encoder(tmp_path / "bare.pt")
    assert same(source, checkpoint.load_encoder(tmp_path / "bare.pt", arch="resnet18"))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_weights_go_to_torchvision_and_come_back(tmp_path, arch):
    """Whatever their layers are called: "features" and "classifier" are parts of some encoders."""
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.get_model(arch)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    encoder = checkpoint.load_encoder(tmp_path / "theirs.pt", arch=arch)
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, encoder.feature_dim)
    left = theirs.load_state_dict(encoder.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert len(left.missing_keys) == 2  # weight and bias of the head
    torch.save({f"module.encoder.{k}": v for k, v in theirs.state_dict().items()}, tmp_path / "wrapped.pt")
    assert same(encoder, checkpoint.load_encoder(tmp_path / "wrapped.pt", arch=arch))


def test_an_encoder_that_cannot_be_used_is_refused():
    for arch, words in (("squeezenet1_0", "head"), ("resnet17", "--arch")):
        with pytest.raises(UserError, match=words):
            build_encoder(arch)
    with pytest.raises(UserError, match="--size 32"):
        check_encoder(build_encoder("vit_b_32"), "vit_b_32", 32)


def test_a_name_of_many_prefixes_takes_no_memory():
    tracemalloc.start()
    try:
        checkpoint._best_group({"module." * 3000 + "x": torch.zeros(1)}, {})
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_half_precision_is_for_matrices_and_kernels(tmp_path):
    """Variances of BatchNorm may be smaller than what float16 holds."""
    source = trained(1)
    source.bn1.running_var.fill_(1e-9)
    checkpoint.save_encoder(tmp_path / "a.pt", source, "resnet20", 1, {"seed": 1})
    content = checkpoint.in_half_precision(tensor_file.read_file(tmp_path / "a.pt"))
    for name, tensor in content["state_dict"].items():
        before = source.state_dict()[name]
        assert tensor.dtype == (torch.float16 if before.ndim > 1 else before.dtype), name
    tensor_file.write_checkpoint(tmp_path / "half.pt", content)
    assert checkpoint.digest_held(tmp_path / "half.pt") == content["provenance"]["digest"]
    for name, tensor in checkpoint.load_encoder(tmp_path / "half.pt").state_dict().items():
        torch.testing.assert_close(
            tensor, source.state_dict()[name], rtol=1e-3 if tensor.ndim > 1 else 0, atol=1e-7 if tensor.ndim > 1 else 0
        )
    with pytest.raises(UserError, match="larger than half precision can hold"):
        checkpoint.in_half_precision({"state_dict": {"a": torch.full((2, 2), 1e5)}})


def moco_file(state):
    other = trained(7).state_dict()
    return {
        "state_dict": {f"module.encoder_q.{k}": v for k, v in state.items()}
        | {f"module.encoder_k.{k}": v for k, v in other.items()}
        | {"module.encoder_q.fc.0.weight": torch.zeros(128, 64), "module.queue": torch.zeros(128, 16)},
        "epoch": 99,
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module.encoder.{k}": v for k, v in s.items()},
        lambda s: {f"backbone.{k}": v for k, v in s.items()},
        lambda s: s | {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)},
        lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k or "layer1" not in k},
        lambda s: (
            {
                "state_dict": {f"encoder.{k}": v for k, v in s.items()}
                | {"projector.layers.0.weight": torch.zeros(64, 64)}
            }
        ),
        moco_file,
    ],
    ids=["bare", "state_dict", "model", "prefixes", "backbone", "head", "few missing", "lightning", "moco"],
)
def test_foreign_files_load(tmp_path, wrap):
    source, target = trained(1), build_encoder("resnet20", 1, 9)
    torch.save(wrap(source.state_dict()), tmp_path / "foreign.pt")
    report = checkpoint.load_encoder_weights(tmp_path / "foreign.pt", target, "resnet20")
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items() if v.is_floating_point())
    assert not any(name.split(".")[0] in ("fc", "projector") for name in report.unexpected)
    assert report.matched + len(report.missing) == len(target.state_dict())
    for name in report.missing:
        assert name in str(report)


def test_a_tensor_of_another_shape_stays_as_it_was(tmp_path):
    """Weights for grey images, say: all other layers fit."""
    state, target = trained(1).state_dict(), build_encoder("resnet20", 1, 9)
    fresh = target.conv1.weight.clone()
    torch.save(state | {"conv1.weight": state["conv1.weight"][:, :1].clone()}, tmp_path / "grey.pt")
    report = checkpoint.load_encoder_weights(tmp_path / "grey.pt", target, "resnet20")
    assert report.missing == report.unexpected == ["conv1.weight"]
    assert torch.equal(target.conv1.weight, fresh)
    assert torch.equal(target.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
