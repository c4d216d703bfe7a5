"""Finished runs side by side: ``python -m experiments.report RUN... --output FOLDER``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.report.comparable import Difference, check
from experiments.report.page import say, write
from experiments.report.runs import OfRuns, check_report_folder, read_run
from experiments.report.summary import check_targets
from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError

PROG = "experiments.report"


@dataclass(frozen=True)
class ReportConfig(OfRuns):
    """Report finished runs side by side. Runs that differ in their seed only form an arm; the first arm is the
    baseline."""

    output: Path = Path("runs/report")
    """Folder for the page, the PNG and the CSV files."""
    targets: tuple[float, ...] = ()
    """Test accuracies whose first round is reported; none for 50%, 75% and 90% of the baseline's best."""
    allow_different: tuple[Difference, ...] = ()
    """Compare runs although their data, budget (passes over the training examples), progress (rounds done) or revision
    of the code differ."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: no run is given, a target is no share, or no report can be written to the output.
        """
        super().__post_init__()
        check_targets(self.targets)
        check_report_folder(self.output)
        if self.output.is_file():
            raise UserError(f"--output {self.output} is a file: name a folder")


def main(config: ReportConfig) -> int:
    """Report the runs; returns the exit code."""
    runs = [read_run(folder) for folder in config.runs]
    check(runs, config.allow_different)
    command = f"python -m {PROG} " + shlex.join(sys.argv[1:])
    summaries = write(runs, config.output, config.targets, config.output.name, command)
    say(summaries, config.output, runs)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(ReportConfig, PROG)))
