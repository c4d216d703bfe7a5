from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from federated import load_classifier
from federated.config.run import RunConfig
from federated.data import sets
from federated.results import export, onnx_file
from federated.server.output import file_names
from federated.server.run import run
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import load_encoder, save_encoder
from fps_pretrain.models.encoders import build_encoder


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that libraries are not installed."""
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in names else original(name))


def test_classifier_as_safetensors(config: RunConfig, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    export.main(export.Command(config.folder, "safetensors", best=True, output=output))
    images = sets.load(config).test.images
    expected = load_classifier(config.folder, best=True)
    found = load_classifier(output)
    assert found.classes == expected.classes
    assert (found(images).probabilities == expected(images).probabilities).all()
    with safe_open(str(output), framework="np") as file:
        made = json.loads(file.metadata()["fps"])["provenance"]
    assert (made["dataset"], made["strategy"], made["rounds"]) == ("digits", "fedavg", 3)


def test_a_runs_encoder_starts_another_run(
    config: RunConfig, tmp_path: Path, tiny: Callable[..., RunConfig], copied: Callable[[], Path]
) -> None:
    folder = copied()
    export.main(export.Command(folder, "safetensors", "encoder"))
    encoder = folder / "encoder.safetensors"
    weights = torch.load(folder / "model.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(t, weights[f"encoder.{n}"]) for n, t in load_encoder(encoder).state_dict().items())
    begun = run(tiny(init=str(encoder), rounds=1), quiet=True).folder
    assert "method: federated" in (begun / "init.yaml").read_text()


def test_an_encoder_with_group_norm_starts_another_run(tmp_path: Path, tiny: Callable[..., RunConfig]) -> None:
    folder = run(tiny(norm="group", rounds=1), quiet=True).folder
    export.main(export.Command(folder, "safetensors", "encoder"))
    begun = run(
        tiny(norm="group", rounds=1, init=str(folder / "encoder.safetensors"), output=tmp_path / "next"), quiet=True
    ).folder
    assert "method: federated" in (begun / "init.yaml").read_text()
    with pytest.raises(UserError, match="--norm group"):
        load_encoder(folder / "encoder.safetensors")


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_an_encoder_in_half_precision(form: str, tmp_path: Path) -> None:
    source, output = tmp_path / "fps.pt", tmp_path / f"half.{form}"
    save_encoder(source, build_encoder("resnet20", seed=3), "resnet20", 1, {"method": "simclr"})
    with pytest.raises(UserError, match="is what is exported"):
        export.main(export.Command(source, "pt", half=True))
    export.main(export.Command(source, form, half=True, output=output))
    assert output.stat().st_size < 0.62 * source.stat().st_size
    whole, half = (load_encoder(path).state_dict() for path in (source, output))
    for name, tensor in whole.items():
        assert half[name].dtype == tensor.dtype
        assert torch.equal(half[name], tensor.half().float() if tensor.ndim > 1 else tensor)


def test_half_precision_is_for_encoders_that_fit(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--part encoder"):
        export.main(export.Command(config.folder, "safetensors", half=True, output=tmp_path / "a.safetensors"))
    with pytest.raises(UserError, match="--half is for"):
        export.Command(config.folder, half=True)
    encoder = build_encoder("resnet20", seed=3)
    with torch.no_grad():
        encoder.get_parameter("conv1.weight")[0] = 1e6
    save_encoder(tmp_path / "fps.pt", encoder, "resnet20", 1, {})
    with pytest.raises(UserError, match="without --half"):
        export.main(export.Command(tmp_path / "fps.pt", "pt", half=True, output=tmp_path / "half.pt"))
    assert not (tmp_path / "half.pt").exists()


def test_an_encoder_checkpoint_as_safetensors(tmp_path: Path) -> None:
    save_encoder(tmp_path / "fps.pt", build_encoder("resnet20", seed=3), "resnet20", 1, {"method": "simclr"})
    export.main(export.Command(tmp_path / "fps.pt", "safetensors"))
    a, b = (load_encoder(tmp_path / f"fps.{suffix}").state_dict() for suffix in ("pt", "safetensors"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("part", ["classifier", "encoder"])
def test_onnx_computes_what_torch_does(
    config: RunConfig, tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[onnx]'")
    output = tmp_path / "deep" / "model.onnx"
    export.main(export.Command(config.folder, "onnx", part, output=output))  # type: ignore[arg-type]
    (line,) = capsys.readouterr().err.splitlines()
    assert "differs from PyTorch by at most" in line
    session = onnxruntime.InferenceSession(str(output))
    images = sets.load(config).test.images[:5]
    (found,) = session.run(None, {"images": images})
    classifier = load_classifier(config.folder)
    if part == "classifier":
        assert np.allclose(found, classifier(images).probabilities, atol=1e-5)
        metadata = session.get_modelmeta().custom_metadata_map
        assert json.loads(metadata["classes"]) == list(classifier.classes)
        assert json.loads(metadata["provenance"])["seed"] == 0
    else:
        assert found.shape == (5, 64)


def test_a_wrong_onnx_model_is_noticed(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="pip install -e '.[onnx]'")
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from PyTorch's"):
        export.main(export.Command(config.folder, output=tmp_path / "model.onnx"))
    assert not (tmp_path / "model.onnx").exists()


def test_without_the_libraries(config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        without(patch, "onnxruntime")
        assert "not checked, since onnxruntime is not installed" in onnx_file.compare(b"", torch.nn.Identity(), 8)
    without(monkeypatch, "onnxscript")
    with pytest.raises(UserError, match=r"pip install -e '\.\[onnx\]'"):
        export.main(export.Command(config.folder, output=tmp_path / "model.onnx"))


@pytest.mark.parametrize(("form", "name"), [("pt", "a.safetensors"), ("safetensors", "a.PT"), ("onnx", "a.pt")])
def test_a_name_says_no_other_format(tmp_path: Path, form: str, name: str) -> None:
    with pytest.raises(UserError, match=f"is named as --format {name.lower()[2:]}, not --format {form}"):
        export.Command(tmp_path, form, output=tmp_path / name)  # type: ignore[arg-type]
    assert export.Command(tmp_path, form, output=tmp_path / "a.model").output  # type: ignore[arg-type]


def test_no_file_of_a_run_is_written_over(config: RunConfig, copied: Callable[[], Path], tmp_path: Path) -> None:
    assert {path.name for path in config.folder.iterdir()} <= file_names.ALL
    folder = copied()
    (tmp_path / "link").symlink_to(folder)
    before = (folder / "state.pt").read_bytes()
    for output in (folder / "state.pt", tmp_path / "link" / "best.pt", folder / "clients" / "0" / "3.pt"):
        with pytest.raises(UserError, match=f"--output {output} belongs to the run in {folder.resolve()}"):
            export.main(export.Command(config.folder, "pt", "encoder", output=output))
    assert (folder / "state.pt").read_bytes() == before
    export.main(export.Command(config.folder, "pt", "encoder", output=tmp_path / "state.pt"))  # in no run's folder


def test_what_cannot_be_exported(config: RunConfig, tmp_path: Path) -> None:
    save_encoder(tmp_path / "fps.pt", build_encoder("resnet20", seed=3), "resnet20", 1, {})
    with pytest.raises(UserError, match="has no classifier"):
        export.main(export.Command(tmp_path / "fps.pt", "safetensors", "classifier"))
    with pytest.raises(UserError, match="neither a run's classifier nor an encoder"):
        export.main(export.Command(config.folder / "state.pt", "safetensors"))
    with pytest.raises(UserError, match="a run knows its own"):
        export.main(export.Command(config.folder, "safetensors", image_size=8))
    with pytest.raises(UserError, match="at least 1"):
        export.Command(config.folder, image_size=0)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        export.Command(config.folder, output=tmp_path / "fifo")


def test_the_model_of_a_client_that_keeps_its_head(tmp_path: Path, tiny: Callable[..., RunConfig]) -> None:
    folder = run(tiny(personal="head", rounds=1, validation=0.0), quiet=True).folder
    with pytest.raises(UserError, match="has no trained head"):
        export.main(export.Command(folder, "safetensors", output=tmp_path / "none.safetensors"))
    assert not (tmp_path / "none.safetensors").exists()
    export.main(export.Command(folder, "safetensors", client=1))
    own = folder / "model-client1.safetensors"
    images = np.zeros((2, 8, 8, 3), np.uint8)
    expected = load_classifier(folder, client=1)(images).probabilities
    assert (load_classifier(own)(images).probabilities == expected).all()
    export.main(export.Command(folder, "safetensors", "encoder", output=tmp_path / "encoder.safetensors"))
    assert load_encoder(tmp_path / "encoder.safetensors").feature_dim == 64
    with pytest.raises(UserError, match="--client is for run folders"):
        export.main(export.Command(tmp_path / "encoder.safetensors", "onnx", "encoder", client=1))
