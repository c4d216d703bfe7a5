"""What becomes one line for the user, and what keeps its traceback."""

import errno
import io
import os
import signal
import subprocess
import sys

import pytest
import torch

from fps_pretrain.common import cli
from fps_pretrain.common.errors import TrainingDiverged, UserError
from fps_pretrain.common.files import write_text_atomically
from fps_pretrain.config.pretrain import PretrainConfig
from tests.conftest import REPOSITORY


def outcome(error):
    """Exit code and stderr of a program that raises ``error``."""

    def main(config):
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run("program", main, None)
    return ended.value.code


@pytest.mark.parametrize(("error", "code"), [(UserError("no such\nthing"), 2), (TrainingDiverged("nan"), 3)])
def test_a_user_error_is_one_line_with_its_exit_code(error, code, capsys):
    assert outcome(error) == code
    assert capsys.readouterr().err == f"program: error: {' '.join(str(error).split())}\n"


def test_nobody_has_to_read_the_help_to_its_end(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with pytest.raises(SystemExit) as ended:
            cli.parse(PretrainConfig, "run_pretrain.py", ["--help"])
    assert ended.value.code == 0
    assert capfd.readouterr().err == ""


def test_a_terminal_does_not_obey_what_a_file_says(capsys):
    outcome(UserError("arch \x1b[31mRED\x07 \x9b31m\u202e\r\nINFO forged"))
    assert capsys.readouterr().err == "program: error: arch \\x1b[31mRED\\x07 \\x9b31m\\u202e INFO forged\n"


@pytest.mark.parametrize(
    "name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENAMETOOLONG", "ENOTDIR", "EADDRINUSE"]
)
def test_what_the_machine_refuses_is_one_line_with_the_files_name(name, capsys):
    assert outcome(OSError(getattr(errno, name), "refused", "runs/a/state.ckpt")) == 2
    assert capsys.readouterr().err == "program: error: refused: runs/a/state.ckpt\n"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "none", "x"), OSError("no number"), BrokenPipeError()]
)
def test_an_os_error_that_is_a_bug_keeps_its_traceback(error):
    def main(config):
        raise error

    with pytest.raises(type(error)):
        cli.run("program", main, None)


def test_a_folder_in_a_files_place_is_one_line(tmp_path, capsys):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.run("program", lambda path: write_text_atomically(path, "text"), tmp_path / "a.csv")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("program: error: Is a directory: ")
    assert said.endswith(f"{tmp_path / 'a.csv'}\n")
    assert said.count("\n") == 1


@pytest.fixture
def keeps_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_programs_is_as_ctrl_c(number, keeps_signals, capsys):
    assert cli.run("program", lambda _: os.kill(os.getpid(), number), None) == cli.EXIT_INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().err


def test_a_closed_terminal_interrupts_once_and_never_under_nohup(keeps_signals):
    def clean_up(_):
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            cleaned.append(True)

    cleaned = []
    assert cli.run("program", clean_up, None) == cli.EXIT_INTERRUPTED
    assert cleaned
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert cli.run("program", lambda _: os.kill(os.getpid(), signal.SIGHUP), None) == 0


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (130, 130)])
def test_a_program_ends_with_the_code_that_it_returns(returned, code, keeps_signals):
    assert cli.run("program", lambda _: returned, None) == code


def test_a_program_is_called_what_the_user_has_typed(monkeypatch):
    for typed, name in (
        ("/opt/bin/fps-pretrain", "fps-pretrain"),
        ("fps-pretrain.exe", "fps-pretrain"),
        ("run_pretrain.py", "run_pretrain.py"),
        ("/opt/python/pytest", "run_pretrain.py"),
    ):
        monkeypatch.setattr(sys, "argv", [typed, "--lr", "1"])
        assert cli.program("run_pretrain.py", "fps-pretrain") == name


@pytest.mark.parametrize(("count", "again"), [(None, False), ("", False), ("0", False), ("1", True), ("12", True)])
def test_a_job_that_slurm_has_started_again_is_known_by_its_count(count, again, monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if count is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    assert cli.requeued() == again


def allocate_too_much():
    return torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), None])
def test_lack_of_memory_is_one_line_that_says_what_to_lower(error, capsys):
    if error is None:  # PyTorch's own, on a CPU
        with pytest.raises(RuntimeError) as raised:
            allocate_too_much()
        error = raised.value
    assert outcome(error) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for words in ("out of memory", "batch size", "image size", "width"):
        assert words in said


def test_a_library_s_value_error_is_not_mistaken_for_a_user_error():
    assert not issubclass(UserError, ValueError)
    with pytest.raises(UserError, match="--lr"):
        PretrainConfig(lr=-1.0)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nope", "x"], "Unrecognized options: --nope, x"),
        (["--lr", "x"], "--lr: no type matching {None}|FLOAT could be instantiated from ['x']."),
    ],
)
def test_no_box_of_the_parser_is_left_in_whatever_encoding(encoding, flags, words, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(UserError) as error:
        cli.read(PretrainConfig, "program", flags)
    assert str(error.value) == words


def test_a_refused_configuration_is_still_one_line():
    command = [sys.executable, "run_pretrain.py", "--lr", "-1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "run_pretrain.py: error: --lr must satisfy 0 < value, got -1.0 (see run_pretrain.py --help)\n"
