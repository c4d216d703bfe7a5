"""Command lines from dataclasses: one parser, one way to report a mistake.

A program's configuration is a frozen dataclass whose ``__post_init__`` checks it. tyro turns it into flags and help;
what tyro prints as a box becomes the one line that the programs promise.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import tyro

from fps_pretrain.common.errors import DISK_ERRORS, EXIT_USAGE, UserError, printable
from fps_pretrain.common.options import flag
from fps_pretrain.common.options.flags import REGISTRY, taken_instead

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C (128 + SIGINT), once the state to resume from is on disk."""

ConfigT = TypeVar("ConfigT")

_BOX_RULE = re.compile(r"^[╭╰][─ ]|^│ ─+ │$|^-{10,}$")

_PLAIN_TITLE = re.compile(r"\A[^╭]*?^\s*-{10,}\s*?$", re.M)
"""The title where stdout is not in UTF-8: tyro then frames with dashes alone, and puts the title above them."""


def program(script: str, command: str) -> str:
    """What a program is called in messages: its console ``command`` where the user typed that, else ``script``."""
    return command if Path(sys.argv[0]).stem == command else script


def requeued() -> bool:
    """Whether Slurm has started this job anew, with the command line that it had."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def refuse(prog: str, message: object) -> NoReturn:
    """Print ``prog: error: message`` as one line on stderr and exit with its exit code, 2 unless it has another."""
    print(f"{prog}: error: {printable(message)}", file=sys.stderr)
    raise SystemExit(getattr(message, "exit_code", EXIT_USAGE))


def _first_section(box: str) -> str:
    """The sentence in a tyro error box, without its frame, its title and the help text below the rule."""
    lines: list[str] = []
    for raw in _PLAIN_TITLE.sub("", box).splitlines():
        line = raw.strip()
        if _BOX_RULE.match(line):
            if lines:
                break
            continue
        lines.append(line.strip("│").strip())
    text = " ".join(line for line in lines if line)
    text = re.sub(r"^Error parsing (?=-)|^Error parsing \w+: ", "", text)
    return text.split(" Got errors:")[0] or " ".join(box.split())


def _paragraphs(text: str) -> str:
    """``text`` with one line a paragraph, for the terminal to break."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def parse(config_type: type[ConfigT], prog: str, argv: Sequence[str] | None = None, description: str = "") -> ConfigT:
    """``read`` for a program: exit with code 2 and a line if the command line is wrong."""
    try:
        return read(config_type, prog, argv, description)
    except UserError as error:
        refuse(prog, f"{error} (see {prog} --help)")


def read(config_type: type[ConfigT], prog: str, argv: Sequence[str] | None = None, description: str = "") -> ConfigT:
    """Parse ``argv`` (default: the process's arguments) into ``config_type``.

    Raises:
        UserError: a flag that there is not, a value that is none, or what the configuration refuses.
        SystemExit: with code 0, after ``--help``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    given = {argument.partition("=")[0] for argument in arguments}
    for name, instead in taken_instead(config_type).items():
        if flag(name) in given:
            raise UserError(f"the program takes {instead}, not {flag(name)}")
    captured = io.StringIO()
    about = _paragraphs(description or config_type.__doc__ or "")
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config_type, prog=prog, description=about, args=arguments, registry=REGISTRY)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise UserError(_first_section(captured.getvalue())) from None
    except BrokenPipeError:  # nobody reads the help to its end: ``--help | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it
        raise SystemExit(0) from None


_MENDABLE = DISK_ERRORS | frozenset(
    getattr(errno, name)
    for name in (
        # permissions and names
        *("EACCES", "EPERM", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP", "EXDEV"),
        # limits of the machine or the account, and a port that is taken
        *("ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EADDRINUSE"),
    )
)
"""OSErrors that a user can mend. Any other, such as a missing file of our own, is a bug and keeps its traceback."""


def _mendable(error: OSError) -> str | None:
    """The line for the user, with the file's name where the error knows it; None for a bug of ours."""
    if error.errno not in _MENDABLE:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([error.strerror or str(error), *names])


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether NumPy, PyTorch on a CPU, or PyTorch on a GPU asked for more memory than there is."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(
        re.search(
            r"can't allocate memory|not enough memory|CUDA out of memory|CUDA error: out of memory|bad_alloc|"
            r"Storage size calculation overflowed",
            str(error),
        )
    )


def _take_signals() -> None:
    """Have SIGTERM, from a batch system, and SIGHUP, from a terminal that is closed, do what Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(number: int, frame: FrameType | None) -> NoReturn:
    """Stop, once: the shell of a closed terminal sends SIGHUP, and then the kernel does."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(prog: str, main: Callable[[Any], int | None], config: Any) -> int:
    """Call ``main(config)`` and return the process's exit code.

    What the user can mend is one line on stderr: ``UserError``, Ctrl-C and the like, lack of memory, and those OSErrors
    that come from the machine (a full disk, a missing permission). Anything else is a bug and keeps its traceback.
    """
    _take_signals()
    # A name of a file may hold what UTF-8 does not.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main(config) or 0
    except UserError as error:
        refuse(prog, error)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on from the saved state", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if _is_out_of_memory(error):
            refuse(prog, f"out of memory: lower the batch size, the image size or the width ({error})"[:500])
        if isinstance(error, OSError) and (line := _mendable(error)):
            refuse(prog, line)
        raise
