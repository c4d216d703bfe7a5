"""Weights from a hub that answers on this machine: ``hf:OWNER/NAME[@REVISION][:FILE]``."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import run_fl
from federated.config.run import RunConfig, init_name
from federated.server.start.initialise import initial_encoder
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError
from fps_pretrain.models import hub
from fps_pretrain.models.checkpoint import load_encoder, save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.fps_pretrain.models.hub_server import Hub, point_to, serving, sha_of

ENCODER = build_encoder("resnet8", seed=3)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the repository lab/fps, and an empty cache."""
    found = Hub()
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, ENCODER, "resnet8", 1, {"method": "simsiam"})
    weights = path.read_bytes()
    found.repos["lab/fps"] = {
        "main": {"README.md": b"card", "model.safetensors": weights, "other.pt": b""},
        "v2": {"only.safetensors": weights},
        "many": {"a.pt": b"", "b.safetensors": b"", "../c.pt": b""},
        "none": {"README.md": b"", "../d.pt": b""},
    }
    with serving(found) as address:
        point_to(monkeypatch, address, tmp_path / "cache")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield found


def same(encoder: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, ENCODER.state_dict()[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    "name", ["hf:lab/fps", "hf:lab/fps@v2", "hf:lab/fps@v2:only.safetensors", "shuffled:hf:lab/fps"]
)
def test_weights_are_downloaded_once_and_then_found_without_network(
    there: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(init=name, arch="resnet8")
    encoder, report = initial_encoder(config)
    assert report is not None
    assert report.matched == len(ENCODER.state_dict())
    assert report.provenance["method"] == "simsiam"
    assert sha_of(there.find("lab/fps", "v2" if "v2" in name else "main")[0] or {}) in report.path  # init.yaml has it
    assert same(encoder) != name.startswith("shuffled")
    downloads = [line for line in there.asked if line.startswith("GET /lab")]
    assert len(downloads) == 1
    initial_encoder(config)
    assert [line for line in there.asked if line.startswith("GET /lab")] == downloads
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=True)
    assert initial_encoder(config)[1] == report


def test_revisions_in_the_cache_are_kept_apart(there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is found with the file that it has, and one that was never downloaded is not."""
    names = ("hf:lab/fps", "hf:lab/fps@v2")
    paths = [hub.download(name) for name in names]
    assert [path.name for path in paths] == ["model.safetensors", "only.safetensors"]
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=True)
    assert [hub.download(name) for name in names] == paths
    with pytest.raises(UserError, match=r"^hf:lab/fps@many is not in the hub's cache"):
        hub.download("hf:lab/fps@many")


def test_in_your_own_code(there: Hub) -> None:
    assert same(load_encoder(f"hf:lab/fps@{sha_of(there.repos['lab/fps']['main'])}"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:lab/nothing", r"the hub has no repository lab/nothing, or it is private"),
        ("hf:lab/fps@v9", r"lab/fps has no revision v9"),
        ("hf:lab/fps@v9:a.pt", r"lab/fps has no revision v9"),
        ("hf:lab/fps:b.pt", r"lab/fps has no file b\.pt"),
        (
            "hf:lab/fps@many",
            r"several files of weights, a\.pt, b\.safetensors: name one, such as hf:lab/fps@many:a\.pt$",
        ),
        ("hf:lab/fps@none", r"holds no \.safetensors or \.pt file"),
        ("hf:lab/fps:other.pt", r"other\.pt is truncated or not a PyTorch checkpoint"),
    ],
)
def test_what_is_not_there_is_said(there: Hub, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "offline"), [("hf:lab/fps", False), ("hf:lab/fps", True), ("hf:lab/fps:a.pt", True)])
def test_without_network_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool) -> None:
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=offline)
    with pytest.raises(UserError, match=f"^{name} is not in the hub's cache and cannot be downloaded"):
        load_encoder(name)


def test_without_network_the_program_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    command = run_fl.parse(["--init", "hf:lab/fps", "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.run("run_fl.py", run_fl.main, command)
    assert ended.value.code == 2
    assert re.fullmatch(r"run_fl.py: error: hf:lab/fps is not in the hub's cache .*\n", capfd.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_pickle_from_the_hub_is_not_loaded(there: Hub, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    there.repos["lab/evil"] = {"main": {"model.pt": pickle.dumps(Hostile())}}
    with pytest.raises(UserError, match="never executed or loaded"):
        load_encoder("hf:lab/evil")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("hf:", "hf:fps", "hf:lab/fps:", "hf:lab/fps@", "hf:../fps", "hf:a/b/c", "hf:lab/fps:../a.pt"),
        *("hf:lab/fps:/a.pt", "hf:lab/fps:./a.pt", "hf:lab/fps:a\\b.pt", "hf:lab/fps:a\x1b[31m.pt"),
    ],
)
def test_other_forms_are_refused_at_once(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{name} is not of the form hf:OWNER/NAME[@REVISION][:FILE]")):
        RunConfig(init=name)


def test_names_of_folders() -> None:
    names = ("hf:lab/fps", "hf:other/fps", "hf:lab/fps@v2", "hf:lab/fps@pr/1:sub/a.pt")
    assert [init_name(name) for name in names] == [
        "hf-lab-fps",
        "hf-other-fps",
        "hf-lab-fps-v2",
        "hf-lab-fps-pr-1-sub-a",
    ]


def test_of_many_files_the_first_eight_are_named() -> None:
    names = [f"{letter}.pt" for letter in "abcdefghi"]
    with pytest.raises(UserError, match=r"weights, a\.pt, .*, g\.pt, h\.pt: name one"):
        hub.choose("hf:lab/fps", reversed(names[:8]))
    with pytest.raises(UserError, match=r"weights, a\.pt, .*, g\.pt, h\.pt, \.\.\.: name one"):
        hub.choose("hf:lab/fps", names)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hub\]'"):
        hub.download("hf:lab/fps")
