"""Publishing an encoder on a hub that answers on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checkpoint import load_encoder, save_encoder
from fps_pretrain.models.checksum import digest
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.models.tensor_file import read_file, write_checkpoint
from fps_pretrain.publish import Command, main, without_folders
from tests.fps_pretrain.models.hub_server import Hub, point_to, serving

ENCODER = build_encoder("resnet8", seed=3)
TOKEN = "hf_secret"
HOME = Path(Path.cwd().anchor, "home", "somebody")

SAID: dict[str, Any] = {
    "method": "simsiam",
    "recipe": {"source": "fractals", "size": 32},
    "config": {"epochs": 5, "source": f"folder:{HOME / 'photos'}", "codes": str(HOME / "codes.npz"), "lr": None},
    "pairs_seen": 1_280_000,
    "probe": {"digits_knn": 0.883, "digits_knn_random": 0.8301, "bank": 1078, "queries": 359},
    "versions": {"torch": "2.11.0+cu130", "evil": "`</code>\n# A heading | <script>`" + 300 * "x"},
}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    with serving(found) as address:
        point_to(monkeypatch, address, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "encoder.pt"
    save_encoder(path, ENCODER, "resnet8", 1, SAID)
    return str(path)


def test_what_is_published_can_be_loaded_and_says_what_it_is(
    there: Hub, checkpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(Command(checkpoint, "lab/fps", private=True, revision="v2", license="mit")) == 0
    assert there.private == {"lab/fps"}
    assert sorted(there.repos["lab/fps"]["v2"]) == ["README.md", "model.safetensors"]
    assert not there.repos["lab/fps"]["main"]
    assert digest(load_encoder("hf:lab/fps@v2").state_dict()) == digest(ENCODER.state_dict())

    head, text = there.repos["lab/fps"]["v2"]["README.md"].decode().removeprefix("---\n").split("\n---\n")
    assert yaml.safe_load(head)["license"] == "mit"
    shown = (
        "| pairs seen | `1,280,000` |",
        "`88.3% (random weights: 83.0%)`",
        "Fractal Pair Similarity",
    )
    for words in (*shown, "| `epochs` | `5` |", "--init hf:lab/fps@v2 --arch resnet8", 'load_encoder("hf:lab/fps@v2")'):
        assert words in text
    assert digest(ENCODER.state_dict()) in text
    # Nothing in the checkpoint is Markdown, and folders of this machine stay here.
    assert "| `evil` | `'</code> # A heading / <script>'x" in text
    published = there.repos["lab/fps"]["v2"]["model.safetensors"]
    assert b"somebody" not in published
    assert "somebody" not in text
    assert "folder:photos" in text

    assert f"Bearer {TOKEN}" in there.tokens
    assert TOKEN not in "".join(capfd.readouterr())
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    main(Command(checkpoint, "lab/fps", revision="v2"))  # again
    assert b"license" not in there.repos["lab/fps"]["v2"]["README.md"]


def test_folders_stay_here_however_they_are_named() -> None:
    said = {
        "source": "folder:clients/acme/scans", "codes": "work/alice/c.npz", "output": "./../up/a",
        "init": "hf:lab/fps:sub/a.pt",
        "runs": [{"init": "alice/b.pt", "dataset": "parquet:alice/data"}], "method": "a/b",
        "notes": ["~/alice/x", "./alice/y", "../alice/z", "and/or"], "run_dir": ["alice/1", "alice/2"],
        "start": "shuffled:alice/b.pt",
    }  # fmt: skip
    assert without_folders(said) == {
        "source": "folder:scans", "codes": "c.npz", "output": "a", "init": "hf:lab/fps:sub/a.pt",
        "runs": [{"init": "b.pt", "dataset": "parquet:data"}], "method": "a/b",
        "notes": ["x", "y", "z", "and/or"], "run_dir": ["1", "2"],
        "start": "shuffled:b.pt",
    }  # fmt: skip


def test_the_command_that_is_told_starts_from_a_wide_encoder(
    there: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wide.pt"
    save_encoder(path, build_encoder("resnet8", width=2), "resnet8", 2, SAID)
    main(Command(str(path), "lab/wide"))
    command = "python run_fl.py --init hf:lab/wide --arch resnet8 --width 2"
    assert capfd.readouterr().out == f"published; start a federation: {command}\n"
    assert command in there.repos["lab/wide"]["main"]["README.md"].decode()


def test_a_public_repository_does_not_become_a_private_ones_home(there: Hub, checkpoint: str) -> None:
    there.repos["lab/open"] = {"main": {}}
    with pytest.raises(UserError, match="lab/open exists and is public"):
        main(Command(checkpoint, "lab/open", private=True))
    assert not there.repos["lab/open"]["main"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not let you write to lab/fps: hf auth login"),
        (403, "does not let you write"),
        (400, "cannot publish"),
    ],
)
def test_a_hub_that_refuses(there: Hub, checkpoint: str, status: int, words: str) -> None:
    there.refuses = status
    with pytest.raises(UserError, match=words) as caught:
        main(Command(checkpoint, "lab/fps"))
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_without_network(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path, offline=False)
    with pytest.raises(UserError, match=r"^cannot publish lab/fps"):
        main(Command(checkpoint, "lab/fps"))


def test_only_encoders_that_say_how_they_were_made_are_published(there: Hub, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(ENCODER.state_dict(), path)
    with pytest.raises(UserError, match="is no encoder checkpoint"):
        main(Command(str(path), "lab/fps"))
    with pytest.raises(UserError, match="does not exist"):
        main(Command("nowhere.pt", "lab/fps"))
    with pytest.raises(UserError, match="OWNER/NAME"):
        Command(str(path), "fps")
    content = read_file(Path(checkpoint))
    content["state_dict"]["bn1.weight"][0] = torch.nan
    write_checkpoint(path, content)
    with pytest.raises(UserError, match=r"not finite in bn1\.weight"):
        main(Command(str(path), "lab/fps"))
    assert there.asked == []
