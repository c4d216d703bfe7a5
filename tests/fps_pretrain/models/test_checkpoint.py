import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.models import checkpoint, tensor_file
from fps_pretrain.models.encoders import build_classifier, build_encoder, check_encoder


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def trained(seed=1, arch="resnet20", width=1):
    """An encoder whose BatchNorm statistics are not the initial ones either."""
    encoder = build_encoder(arch, width, seed)
    with torch.no_grad():
        encoder(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    return encoder


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
    assert report.provenance["digest"] == digest == checkpoint.digest(target.state_dict())
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


def refuses(path, *words, arch="resnet20", width=1):
    encoder = trained(9, arch, width)
    untouched = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(UserError) as error:
        checkpoint.load_encoder_weights(path, encoder, arch, width)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(untouched[k], v) for k, v in encoder.state_dict().items())


def test_wrong_architecture_is_refused_whether_said_or_not(tmp_path):
    checkpoint.save_encoder(tmp_path / "ours.pt", trained(1, "resnet32"), "resnet32", 1, {})
    refuses(tmp_path / "ours.pt", "resnet32", "--arch resnet32")
    checkpoint.save_encoder(tmp_path / "wide.pt", trained(1, width=2), "resnet20", 2, {})
    refuses(tmp_path / "wide.pt", "--width 2")
    torch.save(trained(1, "resnet32").state_dict(), tmp_path / "bare32.pt")
    refuses(tmp_path / "bare32.pt", "does not fit resnet20")
    torch.save(trained(1).state_dict(), tmp_path / "bare20.pt")
    refuses(tmp_path / "bare20.pt", "does not fit resnet32", arch="resnet32")
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pt")
    refuses(tmp_path / "resnet18.pt", "does not fit")


def test_missing_truncated_and_other_files_are_refused(tmp_path):
    refuses(tmp_path / "none.pt", "does not exist")
    refuses(tmp_path, "does not exist")
    path = tmp_path / "a.pt"
    checkpoint.save_encoder(path, trained(), "resnet20", 1, {})
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:size])
        refuses(path, "truncated or not a PyTorch checkpoint")
    path.write_text("hello")
    refuses(path, "truncated or not")
    torch.save([1, 2], path)
    refuses(path, "not a dictionary")
    torch.save({"epoch": 3}, path)
    refuses(path, "no weights")


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["FPS_BOMB"],)


@pytest.mark.parametrize("protocol", [2, 4, 5, None])
def test_code_in_a_pickle_is_never_run(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("FPS_BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "evil.pt"
    if protocol is not None:
        path.write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol))
    else:
        torch.save({"state_dict": trained().state_dict(), "extra": Bomb()}, path)
    refuses(path, "never executed")
    assert not (tmp_path / "exploded").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    encoder = trained()
    with torch.no_grad():
        encoder.conv1.weight[0, 0, 0, 0] = float("nan")
    torch.save(encoder.state_dict(), tmp_path / "nan.pt")
    refuses(tmp_path / "nan.pt", "not finite")


def test_another_version_of_the_format_is_refused(tmp_path):
    torch.save({"format": "fps-encoder", "version": 99, "state_dict": trained().state_dict()}, tmp_path / "new.pt")
    refuses(tmp_path / "new.pt", "version 99")


def payload(**changes):
    """The content of an encoder checkpoint of this version, changed."""
    state = trained().state_dict()
    provenance = {"digest": checkpoint.digest(state), "method": "simsiam", "pairs_seen": 10}
    whole = {"format": "fps-encoder", "version": 1, "arch": "resnet20", "width": 1, "state_dict": state}
    return whole | {"provenance": provenance} | changes


def test_weights_without_their_digest_are_refused(tmp_path):
    content = payload()
    content["state_dict"]["conv1.weight"][0, 0, 0, 0] += 1e-6
    torch.save(content, tmp_path / "changed.pt")
    refuses(tmp_path / "changed.pt", "digest")
    assert checkpoint.digest_held(tmp_path / "changed.pt") is None
    torch.save(payload(provenance={"digest": "0" * 64}), tmp_path / "digest.pt")
    refuses(tmp_path / "digest.pt", "digest")
    torch.save(payload(provenance={}), tmp_path / "old.pt")
    assert checkpoint.load_encoder(tmp_path / "old.pt")


def test_a_flipped_bit_in_a_file_is_noticed(tmp_path):
    """torch does not look at the checksums in its archives."""
    source, path = trained(), tmp_path / "a.pt"
    torch.save(source.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[content.index(source.conv1.weight.detach().numpy().tobytes()) + 3] ^= 1
    path.write_bytes(content)
    refuses(path, "damaged")


@pytest.mark.parametrize("name", ["width", "version", "arch", "format"])
@pytest.mark.parametrize("value", [torch.ones(3), None, [1], "x", 2**80], ids=str)
def test_fields_of_other_types_are_refused(tmp_path, name, value):
    content = payload(**{name: value})
    if name == "format":  # read as another file with these weights
        content["state_dict"].pop("conv1.weight"), content["state_dict"].pop("bn1.weight")
        content["state_dict"] = dict(list(content["state_dict"].items())[:20])
    torch.save(content, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "a.pt")


@pytest.mark.parametrize("key", [3, None, (1, 2), 1.5, True], ids=str)
def test_keys_that_are_no_names_are_passed_over(tmp_path, key):
    state = dict(trained().state_dict())
    torch.save({"state_dict": state | {key: torch.ones(2)}, key: 1}, tmp_path / "a.pt")
    target = build_encoder("resnet20", 1, 9)
    assert checkpoint.load_encoder_weights(tmp_path / "a.pt", target, "resnet20").matched == len(state)


BEFORE_IT_FITS = {
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "without values": lambda t: t.to("meta"),
    "complex64": lambda t: t.to(torch.complex64),
    "bool": lambda t: t > 0,
    "int64": lambda t: t.long(),
    "not finite": lambda t: t.double() * 1e300,
}


@pytest.mark.parametrize("words", BEFORE_IT_FITS)
def test_tensors_that_are_no_weights_are_refused(tmp_path, words):
    state = dict(trained().state_dict())
    state["conv1.weight"] = BEFORE_IT_FITS[words](state["conv1.weight"])
    torch.save(state, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", words, "conv1.weight")


def endless():
    content: dict = {"digest": checkpoint.digest(trained().state_dict())}
    content["self"] = [content, content]
    return content


def deep():
    content: dict = {}
    for _ in range(3000):
        content = {"in": content}
    return content


@pytest.mark.parametrize(
    "said",
    ["text", [1, 2], None, 3, endless(), deep(), {"method": "\udcff", 3: torch.ones(2)}],
    ids=["text", "list", "none", "number", "endless", "deep", "surrogate"],
)
def test_provenance_may_be_anything(tmp_path, said):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        torch.save(payload(provenance=said), tmp_path / "a.pt")
    finally:
        sys.setrecursionlimit(limit)
    report = checkpoint.load_encoder_weights(tmp_path / "a.pt", build_encoder("resnet20"), "resnet20")
    assert json.loads(json.dumps(report.provenance).encode("utf-8")) == report.provenance
