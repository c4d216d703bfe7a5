"""``python -m tests.tools.malformed``: try every malformed input, a tenth of them in processes of their own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.tools.malformed.attempt import attempt
from tests.tools.malformed.cases import every_case


def main() -> int:
    """Print what was not handled, and how many were; returns the exit code."""
    torch.set_num_threads(1)
    cases, handled = every_case(), 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(cases):
            # A NUL cannot be handed to another process.
            alone = number % 10 == 0 and not any("\0" in part or "\ud800" in part for part in case.arguments)
            wrong = attempt(case, Path(scratch) / str(number), alone=alone)
            handled += wrong is None
            if wrong is not None:
                print(f"{case.program}, {case.name}: {wrong}", flush=True)
    print(f"{len(cases)} tried, {handled} handled")
    return 0 if handled == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
