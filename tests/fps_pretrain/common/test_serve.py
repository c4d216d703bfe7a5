"""A run folder in a browser while its program runs."""

from __future__ import annotations

import html
import http.client
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.serve import RELOAD, serving

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with what is shown and what is not."""
    folder = tmp_path / "a run"
    (folder / "runs" / "one").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("outside")
    for name in ("log.txt", "curve.png", "config.yaml", "secret", ".hidden.txt", "state.pt", "runs/one/index.html"):
        (folder / name).write_text(f"this is {name}")
    (folder / "out.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "inside.txt").symlink_to(folder / "log.txt")
    return folder


def address(said: str) -> int:
    return int(re.findall(r"http://127\.0\.0\.1:(\d+)/", said)[0])


@pytest.fixture
def port(run: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[int]:
    with serving(run, 0):
        yield address(capfd.readouterr().err)


@pytest.fixture
def ask(port: int) -> Ask:
    def answer(path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, headers={"Host": host} if host else {})
        got = connection.getresponse()
        text = got.read().decode()
        connection.close()
        return got.status, text

    return answer


@pytest.mark.parametrize("path", ["/log.txt", "/log.txt?again", "/inside.txt", "/./log.txt"[2:]])
def test_files_of_the_folder_are_shown(ask: Ask, path: str) -> None:
    assert ask(path) == (200, "this is log.txt")
    assert ask(path, "HEAD") == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        *("/../outside.txt", "/%2e%2e/outside.txt", "/runs/../../outside.txt", "//etc/passwd", "/out.txt", "/up/"),
        *("/up/outside.txt", "/config.yaml", "/secret", "/.hidden.txt", "/state.pt", "/nothing.txt", "/runs", "/%00"),
    ],
)
def test_nothing_else_is(ask: Ask, path: str) -> None:
    status, text = ask(path)
    assert status == 404
    assert "this is" not in text
    assert "outside" not in text


def test_a_page_that_is_a_link_to_what_is_not_shown(ask: Ask, run: Path) -> None:
    (run / "index.html").symlink_to(run / "state.pt")
    assert ask("/")[0] == 404


def test_a_list_of_files_and_pictures_that_loads_itself_again(ask: Ask, run: Path) -> None:
    status, text = ask("/")
    assert status == 200
    assert RELOAD in text
    assert re.findall(r'href="([^"]+)"', text)[1:] == ["curve.png", "inside.txt", "log.txt", "out.txt", "runs/", "up/"]
    assert '<img src="curve.png"' in text
    assert ask("/runs/one/") == (200, "this is runs/one/index.html")
    (run / "training.html").write_text("page")
    assert ask("/") == (200, "page")


@pytest.mark.parametrize("name", ["50% & more.txt", "<b>bold 'n' \"quoted\".txt", "what?#.txt", "ä.txt"])
def test_a_name_is_text_and_its_link_leads_to_it(ask: Ask, run: Path, name: str) -> None:
    (run / "runs" / "two").mkdir()
    (run / "runs" / "two" / name).write_text("found")
    ((link, words),) = re.findall(r'<li><a href="([^"]*)">(.*?)</a>', ask("/runs/two/")[1])
    assert "<" not in words
    assert html.unescape(words) == name
    assert ask(f"/runs/two/{link}") == (200, "found")


def test_what_is_sent_is_new_each_time_and_taken_for_nothing_but_its_kind(port: int, run: Path) -> None:
    kinds = {"log.txt": "text/plain; charset=utf-8", "curve.png": "image/png", "": "text/html; charset=utf-8"}
    for path, kind in kinds.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("HEAD", f"/{path}")
        got = connection.getresponse()
        connection.close()
        assert got.getheader("Content-Type") == kind
        assert got.getheader("Cache-Control") == "no-store"
        assert got.getheader("X-Content-Type-Options") == "nosniff"
        if path:
            assert got.getheader("Content-Length") == str((run / path).stat().st_size)


def test_it_is_reached_by_the_two_names_that_this_machine_has_for_itself(ask: Ask, port: int) -> None:
    assert ask("/log.txt", host=f"localhost:{port}") == (200, "this is log.txt")
    with pytest.raises(ConnectionRefusedError):  # as from another machine: it listens at one address alone
        socket.create_connection(("127.0.0.2", port), timeout=10)


def test_other_names_of_this_machine_are_refused_and_nothing_can_be_written(ask: Ask) -> None:
    assert ask("/log.txt", host="evil.example:80")[0] == 403
    assert ask("/log.txt", "POST")[0] == 501


def test_a_folder_that_is_not_there_yet_and_the_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path / "later", 0):
        port = address(capfd.readouterr().err)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        assert b"nothing yet" in connection.getresponse().read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"--serve {port}: Address already in use; 0 takes a free port"),
            serving(tmp_path, port),
        ):
            pass


def test_without_a_port_nothing_is_served(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, None):
        assert capfd.readouterr().err == ""
