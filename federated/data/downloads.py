"""What comes from elsewhere: where it is kept, and how its failures are told."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from fps_pretrain.common.errors import UserError

CACHE = Path.home() / ".cache" / "fps-federated"
"""Where data sets and weights go when their library has no cache of its own."""


@contextlib.contextmanager
def one_line(message: str) -> Iterator[None]:
    """Whatever a download raises (each library has its own errors) becomes one line, and what it says is dropped.

    Raises:
        UserError: ``message`` and, in brackets, the first line of the reason.
    """
    silenced = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)  # what libraries say of each of their attempts
        try:
            yield
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise UserError(f"{message} ({reason[0] if reason else type(error).__name__})") from error
        finally:
            logging.disable(silenced)
