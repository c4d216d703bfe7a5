"""Files that are no encoder checkpoint, or a damaged one: one line, and the encoder stays as it was."""

import json
import os
import pickle
import sys

import pytest
import torch

from fps_pretrain.common.errors import UserError
from fps_pretrain.models import checkpoint, checksum
from fps_pretrain.models.encoders import build_encoder
from tests.fps_pretrain.models.trained import trained


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
    refuses(tmp_path, "is a folder: name a file")
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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bn1.running_var", -1.0, "values below 0 in bn1.running_var"),
        ("bn1.num_batches_tracked", -5, "values below 0 in bn1.num_batches_tracked"),
        ("conv1.weight", -3e38, "values beyond 1e+15 in conv1.weight"),
    ],
)
def test_weights_that_no_training_makes_are_refused(tmp_path, name, value, words):
    encoder = trained(1)
    encoder.state_dict()[name].fill_(value)
    checkpoint.save_encoder(tmp_path / "a.pt", encoder, "resnet20", 1, {})
    refuses(tmp_path / "a.pt", words)


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
    provenance = {"digest": checksum.digest(state), "method": "simsiam", "pairs_seen": 10}
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
    content: dict = {"digest": checksum.digest(trained().state_dict())}
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
