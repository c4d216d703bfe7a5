"""The training page and the log it is made of."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from fps_pretrain.common.serve import RELOAD, serving
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.probing import training_page
from fps_pretrain.probing.curves import read_log


def test_the_log_of_a_resumed_run_is_one(tmp_path):
    for version, text in enumerate(["step,loss\n0,5\n1,4\n2,3\n3,9\n", "step,loss\n2,2.5\n3,2\n", "ste"]):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    rows, unreadable = read_log(tmp_path, "csv")
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 5), (1, 4), (2, 2.5), (3, 2)]
    assert not unreadable


def test_one_cell_that_is_no_number_costs_that_cell_only(tmp_path):
    folder = tmp_path / "csv" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_bytes(b"step,loss,lr\n0,5,0.1\n1,4.\xff\x00,0.2\n2,3,0.3\nx,2,0.4\n")
    rows, unreadable = read_log(tmp_path, "csv")
    assert rows == [{"step": 0, "loss": 5, "lr": 0.1}, {"step": 1, "lr": 0.2}, {"step": 2, "loss": 3, "lr": 0.3}]
    assert unreadable == 2


def test_the_training_page_is_one_file_with_curves_and_neighbours(tmp_path):
    views = np.random.default_rng(0).normal(size=(2, 30, 3, 16, 16)).astype(np.float32)
    order = np.stack([np.roll(np.arange(30), -i) for i in range(30)])
    order[0] = order[0][::-1]  # the first view finds its partner last
    neighbours = training_page.Neighbours(views, order)
    assert neighbours.retrieval == pytest.approx(29 / 30)
    sheet = cv2.imdecode(np.frombuffer(neighbours.png(), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (10 * 72 + 8, 8 * 72 + 24, 3)
    frame = (sheet == (60, 140, 0)).all(axis=2)
    assert not frame[:72].any()
    assert frame[72:].any()

    for name, text in {
        "csv": "step,pairs_seen,loss,data_wait,lr,loss_shuffled,embedding_rank\n"
        "0,8,5,0.25,,,\n1,16,4,0.5,0.!,4.5,12.34\n",
        "probes": "step,pairs_seen,knn_accuracy,pair_retrieval\n1,16,0.625,0.5\n",
    }.items():
        (tmp_path / name / "version_0").mkdir(parents=True)
        (tmp_path / name / "version_0" / "metrics.csv").write_text(text)
    config = PretrainConfig(epochs=1, pairs_per_epoch=16, batch_size=8, run_dir=tmp_path).resolve(has_gpu=False)
    page = training_page.write_page(
        tmp_path, config, neighbours, "digits", {"knn_accuracy": 0.375, "pair_retrieval": 0}
    )
    text = page.read_text()
    shown = (
        "62.5%",
        "37.5%",
        "4.000",
        "50%",
        "16 of 16 pairs",
        "96.7%</b> pair retrieval among 30 pairs",
        "4.500 on shuffled",
        "12.3",
    )
    for words in (*shown, "1 values of the log are no"):
        assert words in text
    assert len(re.findall("data:image/png;base64,", text)) == 2
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "http-equiv" not in text  # finished: it stays as it is
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    assert table[0].split(",")[:2] == ["step", "pairs_seen"]
    assert len(table) == 1 + 2 + 2


def test_a_pair_is_retrieved_where_its_own_view_is_the_nearest():
    order = np.array([[0, 1, 2], [0, 1, 2], [1, 0, 2], [3, 1, 0]])
    assert training_page.Neighbours(np.zeros((2, 4, 3, 16, 16)), order).retrieval == 0.5


def page_of(folder, losses, probes):
    """The text of the page of a run of 16 pairs with these lines in its logs."""
    head = "step,pairs_seen,loss", "step,pairs_seen,knn_accuracy,pair_retrieval"
    for name, lines in (("csv", [head[0], *losses]), ("probes", [head[1], *probes])):
        (folder / name / "version_0").mkdir(parents=True)
        (folder / name / "version_0" / "metrics.csv").write_text("\n".join(lines) + "\n")
    config = PretrainConfig(epochs=1, pairs_per_epoch=16, batch_size=8, run_dir=folder).resolve(has_gpu=False)
    neighbours = training_page.Neighbours(np.zeros((2, 2, 3, 16, 16)), np.array([[0, 1], [1, 0]]))
    baseline = {"knn_accuracy": 0.4, "pair_retrieval": 0.25}
    return training_page.write_page(folder, config, neighbours, "digits", baseline).read_text()


def test_a_page_is_finished_though_the_last_line_of_the_log_came_before_the_end(tmp_path):
    text = page_of(tmp_path, ["0,8,5"], ["2,16,0.5,0.75"])
    assert "16 of 16 pairs" in text
    assert RELOAD not in text


def test_a_probe_with_a_cell_that_is_no_number_has_a_dash_in_its_place(tmp_path):
    text = page_of(tmp_path, ["0,8,5"], ["1,8,0.!,0.625", "2,!,0.375,!", "3,16,0.5,0.75"])
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr><td>.*?</tr>", text, re.S)]
    assert rows == [["0", "40.0%", "25.0%"], ["8", "–", "62.5%"], ["–", "37.5%", "–"], ["16", "50.0%", "75.0%"]]
    assert "3 values of the log are no numbers" in text


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run that goes on, with long names and values."""
    folder = tmp_path_factory.mktemp("page")
    steps = range(0, 40)
    rows = [f"{i},{8 * i},{5 - i / 20},{0.1 + i / 100},0.25,1234" for i in steps]
    (folder / "csv" / "version_0").mkdir(parents=True)
    head = "step,pairs_seen,loss,embedding_spread,data_wait,pairs_per_second"
    (folder / "csv" / "version_0" / "metrics.csv").write_text("\n".join([head, *rows]))
    (folder / "probes" / "version_0").mkdir(parents=True)
    probes = [f"{i},{8 * i},{0.4 + i / 100},{0.3 + i / 100},{i / 40}" for i in range(4, 40, 5)]
    head = "step,pairs_seen,knn_accuracy,linear_accuracy,pair_retrieval"
    (folder / "probes" / "version_0" / "metrics.csv").write_text("\n".join([head, *probes]))
    views = np.random.default_rng(0).normal(size=(2, 30, 3, 32, 32)).astype(np.float32)
    order = np.stack([np.roll(np.arange(30), -i) for i in range(30)])
    config = PretrainConfig(epochs=100, pairs_per_epoch=16, batch_size=8, run_dir=folder).resolve(has_gpu=False)
    config = replace(config, output=folder / ("a-name-that-nobody-can-break" * 4) / "encoder.pt")
    baseline = {"knn_accuracy": 0.375, "linear_accuracy": 0.3, "pair_retrieval": 0}
    return training_page.write_page(folder, config, training_page.Neighbours(views, order), "digits", baseline)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(chromium, page, width, scheme):
    chromium.assert_fits(page, width, scheme)
    assert chromium.evaluate("return [...document.images].every(image => image.naturalWidth > 0)")
    assert chromium.console() == []


def test_the_page_of_a_run_that_goes_on_is_served_and_loads_itself_again(chromium, page, capfd):
    assert RELOAD in page.read_text()
    with serving(page.parent, 0):
        address = re.findall(r"http://\S+", capfd.readouterr().err)[0]
        chromium.open(address, 1280)
        assert chromium.evaluate("return document.querySelector('meta[http-equiv=refresh]').content") == "10"
        before = page.read_text()
        page.write_text(before.replace("<title>", "<title>again "))
        chromium.evaluate("location.reload()")
        assert chromium.evaluate("return document.title").startswith("again ")
        page.write_text(before)
    assert chromium.console() == []
