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
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from fps_pretrain.common.errors import DISK_ERRORS, EXIT_USAGE, UserError, printable
from fps_pretrain.common.options import OptionField, OptionSet, fields_of
from fps_pretrain.common.options.text import facts, help_of

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
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config_type, prog=prog, description=description or None, args=argv, registry=_REGISTRY)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise UserError(_first_section(captured.getvalue())) from None
    except BrokenPipeError:  # nobody reads the help to its end: ``--help | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it
        raise SystemExit(0) from None


_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.struct_rule
def _flags_of(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """The flags of a configuration, with help made of what its fields say; tyro's own rule does all other classes."""
    if not (isinstance(info.type, type) and issubclass(info.type, OptionSet)):
        return None
    instance = info.default if isinstance(info.default, OptionSet) else None
    flags = []
    for one in fields_of(info.type):
        # What follows from other options in the default instance is no default: they may be given anew.
        default = one.default if instance is None else instance.given(one.name)
        hint = partial(_hint, one, default)
        kind: Any = Annotated[one.type, tyro.conf.arg(help_behavior_hint=hint)]
        help_text = partial(_help, info.type, one.name)
        flags.append(tyro.constructors.StructFieldSpec(one.name, kind, default, help_text))
    return tyro.constructors.StructConstructorSpec(info.type, tuple(flags))


# Help is made where it is asked for.


def _hint(one: OptionField, default: Any, label: str) -> str:
    return facts(one, default)


def _help(options: type, name: str) -> str:
    return help_of(options).get(name, "")


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
