"""run_pretrain.py from the outside."""

import cv2
import pytest

from fps_pretrain.models import checkpoint
from tests.conftest import assert_refused

TINY = ["--epochs", 1, "--pairs-per-epoch", 16, "--batch-size", 8, "--workers", 0]


def test_trains_writes_and_keeps(run_script, tmp_path, probe_data):
    command = ["run_pretrain.py", "--method", "simsiam", "--size", 16, *TINY, "--output", tmp_path / "a.pt"]
    done = run_script(*command, "--run-dir", tmp_path / "run", "--save-every", 1, fresh=True)
    assert done.returncode == 0, done.stderr
    for words in ("preset quick", "--preset paper", "16 pairs", "digits kNN", "pairs/s", "run_fl.py --init"):
        assert words in done.stderr
    content = checkpoint.read_file(tmp_path / "a.pt")
    assert (content["arch"], content["width"]) == ("resnet20", 1)
    assert content["provenance"]["pairs_seen"] == 16
    assert 0 < content["provenance"]["probe"]["digits_knn"] <= 1
    snapshot = checkpoint.read_file(tmp_path / "run" / "encoder-epoch001.pt")
    assert snapshot["provenance"] == content["provenance"]

    again = run_script(*command, "--run-dir", tmp_path / "run2", "--seed", 1, "--probe-data", probe_data)
    assert again.returncode == 0, again.stderr
    assert "a.1.pt" in again.stderr
    kept = checkpoint.read_file(tmp_path / "a.1.pt")
    assert kept["provenance"]["digest"] == content["provenance"]["digest"]


def test_trains_an_encoder_of_torchvisions_with_moco(run_script, tmp_path, probe_data):
    command = ["run_pretrain.py", "--method", "moco", "--arch", "resnet18", "--size", 32, *TINY]
    command += ["--probe-data", probe_data]
    done = run_script(
        *command, "--method-options", "queue=64", "--output", tmp_path / "a.pt", "--run-dir", tmp_path / "r"
    )
    assert done.returncode == 0, done.stderr
    assert f"run_fl.py --init {tmp_path / 'a.pt'} --arch resnet18 --image-size 32\n" in done.stderr
    encoder = checkpoint.load_encoder(tmp_path / "a.pt")
    assert encoder.feature_dim == 512
    assert checkpoint.read_file(tmp_path / "a.pt")["provenance"]["method"] == "moco"
    assert (tmp_path / "r" / "training.html").stat().st_size > 10_000


def test_a_run_that_diverges_ends_with_exit_code_3_and_a_line(run_script, tmp_path, probe_data):
    command = ["run_pretrain.py", "--epochs", 2, "--pairs-per-epoch", 64, "--batch-size", 8, "--workers", 0]
    command += ["--size", 16, "--probe-data", probe_data]
    done = run_script(*command, "--lr", "1e30", "--output", tmp_path / "a.pt", "--run-dir", tmp_path / "r")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for words in ("step", "last good state", "--lr"):
        assert words in last
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("size", [32, 96])
def test_preview(run_script, tmp_path, size):
    done = run_script("run_pretrain.py", "preview", "--pairs", 5, "--size", size, "--output", tmp_path / "p")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "p").glob("pair-*-view-[ab].png"))) == 10
    image = cv2.imread(str(tmp_path / "p" / "pair-003-view-b.png"))
    assert image.shape == (size, size, 3)
    assert cv2.imread(str(tmp_path / "p" / "sheet.png")).shape[1] <= 1700
    before = {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()}
    refused = run_script("run_pretrain.py", "preview", "--pairs", 5, "--output", tmp_path / "p")
    assert_refused(refused, "not an empty folder")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "simclear"], "--method"),
        (["--arch", "resnet21"], "--arch"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "1"], "--batch-size"),
        (["--batch-size", "64", "--pairs-per-epoch", "32"], "--pairs-per-epoch"),
        (["--batch-size", "20000"], "--pairs-per-epoch"),
        (["--size", "8"], "size"),
        (["--objects", "3", "2"], "objects"),
        (["--classes", "1"], "classes"),
        (["--lr", "-1"], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--workers", "-1"], "--workers"),
        (["--workers", "100000"], "--workers"),
        (["--threads", "100000"], "--threads"),
        (["--pool", "1"], "pool"),
        (["--codes", __file__], "is not a file of codes"),
        (["--codes", "missing.npz"], "--codes missing.npz: there is no such file"),
        (["--recipe-numbers", "compose.scale_low"], "--recipe-numbers takes NAME=NUMBER"),
        (["--recipe-numbers", "compose.scale_low=2"], "compose.scale_low must be in"),
        (["--seed", "-1"], "--seed"),
        (["--speed", "3"], "--speed"),
        (["--output", "."], "--output"),
        (["--source", "folder:nowhere"], "--source"),
        (["--method", "simsiam", "--method-options", "queue=10"], "--method-options"),
        (["--arch", "squeezenet1_0"], "--arch"),
        (["--arch", "vit_b_32", "--size", "32"], "--size"),
        (["--devices", "3"], "--batch-size"),
        (["--probe-data", "nowhere"], "--probe-data"),
        (["preview", "--pairs", "0"], "--pairs"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run_script, tmp_path, arguments, words):
    assert_refused(run_script("run_pretrain.py", *arguments, cwd=tmp_path), words)
    assert not list(tmp_path.iterdir())
