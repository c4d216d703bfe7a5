"""Finished runs side by side: ``python -m experiments.report RUN... --output FOLDER``."""

from __future__ import annotations

import sys

from experiments.report.page import ReportConfig, main
from fps_pretrain.common import cli

PROG = "experiments.report"

if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(ReportConfig, PROG)))
