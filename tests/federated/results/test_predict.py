from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest

from federated import load_classifier
from federated.config.run import RunConfig
from federated.results import predict as predict_program
from fps_pretrain.common.errors import UserError
from tests.conftest import RunScript, assert_refused

Predict = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def predict(run_script: RunScript) -> Predict:
    """Run the program as a user does."""
    return partial(run_script, "federated.predict")


def test_a_folder_becomes_a_table_and_a_sheet(
    predict: Predict, config: RunConfig, photos: Path, tmp_path: Path
) -> None:
    output, sheet = tmp_path / "new" / "said.csv", tmp_path / "sheet.png"
    done = predict(config.folder, photos, "--output", output, "--sheet", sheet, "--best", fresh=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = list(csv.reader(output.open(newline="")))
    assert rows[0] == ["image", "class", "probability", *"0123456789"]
    assert [Path(row[0]) for row in rows[1:]] == sorted(photos.iterdir())
    said = load_classifier(config.folder, best=True)([Path(row[0]) for row in rows[1:]])
    assert [row[1] for row in rows[1:]] == said.names
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(said.probabilities.max(1).tolist(), abs=1e-5)
    assert cv2.imread(str(sheet)).shape[1] > 500


def test_files_are_printed_with_the_names_of_a_list(
    predict: Predict, config: RunConfig, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"digit {number}" for number in range(10)) + "\n")
    done = predict(config.folder, photos / "03.png", photos / "01.png", "--classes", tmp_path / "names.txt")
    rows = list(csv.reader(done.stdout.splitlines()))
    assert [Path(row[0]).name for row in rows[1:]] == ["03.png", "01.png"]
    assert rows[1][1].startswith("digit ")


@pytest.mark.parametrize("flag", ["output", "sheet"])
def test_nothing_but_a_file_is_written_over(tmp_path: Path, flag: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    places: dict[str, Any] = {flag: tmp_path / "fifo"}
    with pytest.raises(UserError, match=f"--{flag} .*fifo is neither a file nor a folder"):
        predict_program.Command(tmp_path, (tmp_path,), **places)
    places[flag] = tmp_path
    with pytest.raises(UserError, match="is a folder: name a file"):
        predict_program.Command(tmp_path, (tmp_path,), **places)


def test_what_is_read_is_not_written_over(copied: Callable[[], Path], photos: Path, tmp_path: Path) -> None:
    folder, images, names = copied(), Path(shutil.copytree(photos, tmp_path / "photos")), tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"))
    (tmp_path / "link.png").symlink_to(images / "00.png")
    model = Path(shutil.copy(folder / "model.pt", tmp_path / "moved.pt"))
    places = (
        (folder, {"output": images / "00.png"}, "--output .* is read, too"),
        (folder, {"sheet": tmp_path / "link.png"}, "--sheet .* is read, too"),
        (folder, {"output": names, "classes": names}, "--output .* is read, too"),
        (model, {"output": model}, "--output .* is read, too"),
        (folder, {"sheet": folder / "curve.png"}, "--sheet .* belongs to the run"),
        (folder, {"output": folder / "model.pt"}, "--output .* belongs to the run"),
        (folder, {"output": tmp_path / "x.csv", "sheet": tmp_path / "photos" / ".." / "x.csv"}, "are both"),
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for run, flags, words in places:
        with pytest.raises(UserError, match=words):
            predict_program.main(predict_program.Command(run, (images,), **flags))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("what", ["unfinished", "no image", "classes", "empty", "nothing", "missing", "no run"])
def test_bad_input_is_one_line(
    predict: Predict, config: RunConfig, photos: Path, copied: Callable[[], Path], tmp_path: Path, what: str
) -> None:
    folder, images, more, words = config.folder, [photos], ["--output", tmp_path / "said.csv"], what
    if what == "unfinished":
        folder, words = copied(), "has not finished"
        (folder / "model.pt").unlink()
    elif what == "no image":
        (tmp_path / "thesis.png").write_text("thesis")
        images, words = [photos, tmp_path / "thesis.png"], "is not an image"
    elif what == "classes":
        (tmp_path / "names.txt").write_text("cat\ndog\n")
        more, words = [*more, "--classes", tmp_path / "names.txt"], "2 class names do not fit"
    elif what == "empty":
        (tmp_path / "empty").mkdir()
        images, words = [tmp_path / "empty"], "holds no images"
    elif what == "no run":
        folder, words = tmp_path / "no-run", "no-run does not exist: name a run folder"
    elif what == "nothing":
        images, words = [], "name image files"
    else:
        images, words = [tmp_path / "nowhere.png"], "does not exist"
    assert_refused(predict(folder, *images, *more), words)
    assert not (tmp_path / "said.csv").exists()
