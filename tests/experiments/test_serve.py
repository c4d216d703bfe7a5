"""--serve, from the outside: a comparison's page while runs go on, and a port that is taken."""

import http.client
import re
import socket

import pytest

import run_fl
import run_pretrain
from experiments import compare
from experiments.report.page import PAGE
from fps_pretrain.common import cli
from fps_pretrain.common.serve import RELOAD
from tests.experiments.runs import TINY


def test_a_comparisons_page_loads_itself_again_until_all_runs_are_there(tmp_path, monkeypatch, capfd):
    output, pages, ports, report = tmp_path / "c", [], [], compare._report

    def spy(config, done, **options):
        report(config, done, **options)
        ports.extend(map(int, re.findall(r"http://127\.0\.0\.1:(\d+)/", capfd.readouterr().err)))
        connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=10)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        assert page == (config.folder / PAGE).read_text()
        pages.append((len(done), RELOAD in page))

    monkeypatch.setattr(compare, "_report", spy)
    flags = [*TINY, "--threads", "1", "--inits", "random", "--seeds", "0", "1", "--output", str(output)]
    assert compare.main(compare.parse([*flags, "--serve", "0"])) == 0
    assert pages == [(1, True), (2, False)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=10)


def start(program, *serve):
    if program == "run_pretrain":
        small = "--arch resnet8 --size 16 --epochs 1 --pairs-per-epoch 16 --batch-size 8 --run-dir run --threads 1"
        return run_pretrain.main([*small.split(), *serve])
    module = {"run_fl": run_fl, "compare": compare}[program]
    inits = ["--inits", "random"] if program == "compare" else []
    return cli.run(program, module.main, module.parse([*TINY, *inits, *serve]))


@pytest.mark.parametrize("program", ["run_fl", "run_pretrain", "compare"])
def test_a_port_that_is_taken_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capfd, program):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as ended:
            start(program, "--serve", str(taken.getsockname()[1]))
    assert ended.value.code == 2
    line = r"[\w.]+: error: --serve \d+: Address already in use; 0 takes a free port\n"
    assert re.fullmatch(line, capfd.readouterr().err)
    assert not list(tmp_path.iterdir())
