import pytest
import torch
from safetensors.torch import save_file

from fps_pretrain.common.errors import UserError
from fps_pretrain.models import checkpoint, checksum
from fps_pretrain.models.encoders import build_encoder


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_round_trip_with_provenance(tmp_path):
    source = build_encoder("resnet20", 1, 4).to(memory_format=torch.channels_last)
    made = {"method": "simclr", "recipe": {"objects": 2, "sizes": [1, 2.5]}, "probe": None}
    path = tmp_path / "new" / "a.safetensors"
    digest, _ = checkpoint.save_encoder(path, source, "resnet20", 1, made)
    assert same(checkpoint.load_encoder(path), source)
    target = build_encoder("resnet20", 1, 9)
    report = checkpoint.load_encoder_weights(path, target, "resnet20", 1)
    assert report.provenance == {**made, "digest": digest}
    assert digest == checksum.digest(target.state_dict())
    assert checkpoint.save_encoder(path, source, "resnet20", 1, made)[1] is None
    assert checkpoint.save_encoder(path, target.train(), "resnet20", 1, {})[1] is None  # the same weights
    with pytest.raises(UserError, match="--arch resnet20 --width 1"):
        checkpoint.load_encoder_weights(path, build_encoder("resnet32"), "resnet32")


def test_other_programs_read_ours_and_we_read_theirs(tmp_path):
    from safetensors import safe_open

    source = build_encoder("resnet20", 1, 4)
    checkpoint.save_encoder(tmp_path / "a.safetensors", source, "resnet20", 1, {})
    with safe_open(str(tmp_path / "a.safetensors"), framework="np") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(source.state_dict())
    save_file({f"backbone.{n}": t for n, t in source.state_dict().items()}, tmp_path / "theirs.safetensors")
    assert same(checkpoint.load_encoder(tmp_path / "theirs.safetensors", "resnet20"), source)


@pytest.mark.parametrize("damage", ["truncated", "text", "metadata", "list"])
def test_damage_is_one_line(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    checkpoint.save_encoder(path, build_encoder("resnet20"), "resnet20", 1, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500_000])
    elif damage == "text":
        path.write_text("my thesis")
    else:
        save_file({"a": torch.ones(2)}, path, {"fps": "{" if damage == "metadata" else "[1]"})
    with pytest.raises(UserError, match="truncated" if damage in ("truncated", "text") else "damaged metadata"):
        checkpoint.load_encoder(path)
