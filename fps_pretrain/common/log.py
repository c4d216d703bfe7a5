"""The pre-training program's logger: lines for the user on stderr, above a progress bar if there is one."""

from __future__ import annotations

import logging
import sys


class _AboveTheBar(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at that moment, without breaking a bar of tqdm's."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
        sys.stderr.flush()


logger = logging.getLogger("fps_pretrain")
"""One line a message, shown from level INFO."""

if not logger.handlers:
    logger.addHandler(_AboveTheBar())
    logger.setLevel(logging.INFO)
    logger.propagate = False  # libraries put handlers of their own on the root logger
