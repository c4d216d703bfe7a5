"""What the programs turn into a single line for the user."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import logging
from collections.abc import Iterator

EXIT_USAGE = 2
"""Exit code of every refusal: a wrong flag, a file that is not what it should be, an output in the way."""

EXIT_FAILED = 3
"""Exit code where training could not go on, as when it diverges."""

DISK_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EFBIG", "ESTALE", "ENOLCK", "ENODEV", "ENXIO")
)
"""Error numbers of a disk that is full, over quota, read-only or broken, of a file that is too large for it, and of a
network file system that has gone away."""

RESUMABLE = "the same command goes on from the last completed round"
"""What is said of a federation that could not go on, and of one that was stopped."""

DIVERGES_AGAIN = "the same command would diverge again: begin another run, with other options"
"""What is said of a federation whose training diverges."""

KEPT = "kept the earlier run as %s"
"""What the log says of a run folder that made room for another."""


class UserError(Exception):
    """What the user asked for cannot be done; the message says why and what to do, in one line.

    It is no ValueError: code that catches the ValueErrors of a library must not catch it by accident.
    """

    exit_code = EXIT_USAGE


class TrainingDiverged(UserError):
    """Loss or weights are no longer finite numbers; the message names the step."""

    exit_code = EXIT_FAILED


def check_installed(what: str, library: str, *modules: str, extra: str) -> None:
    """Refuse what needs a library that not every installation has.

    Args:
        what: an option or an action, for the message.
        library: its name, for the message.
        modules: what must be importable.
        extra: the extra of this project that installs it.

    Raises:
        UserError: one of the modules is missing.
    """
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise UserError(f"{what} needs {library}: pip install -e '.[{extra}]'")


def printable(text: object) -> str:
    """Text of anybody's as one line that a terminal shows and does not obey: what is not printable is escaped."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


@contextlib.contextmanager
def one_line(message: str) -> Iterator[None]:
    """Turn whatever a download raises (each library has its own errors) into one line, and drop what it prints.

    A ``UserError`` stays what it is.

    Raises:
        UserError: ``message`` and, in brackets, the first line of the reason.
    """
    silenced = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)  # libraries log each of their attempts
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise UserError(f"{message} ({reason[0] if reason else type(error).__name__})") from error
        finally:
            logging.disable(silenced)
