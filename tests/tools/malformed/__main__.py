"""``python -m tests.tools.malformed``: try every malformed input, a tenth of them in processes of their own.

It takes several minutes, and ends with "N tried, N handled" and exit code 0, or with code 1 after saying what was not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from tests.tools.malformed.attempt import attempt
from tests.tools.malformed.cases import every_case, is_alone


def main() -> int:
    """Print what was not handled, and how many were; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.malformed", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="try only cases whose program or name has this text")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    cases, handled = [each for each in enumerate(every_case()) if only in f"{each[1].program}, {each[1].name}"], 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in cases:
            wrong = attempt(case, Path(scratch) / str(number), alone=is_alone(number, case))
            handled += wrong is None
            if wrong is not None:
                print(f"{case.program}, {case.name}: {wrong}", flush=True)
    print(f"{len(cases)} tried, {handled} handled")
    return 0 if handled == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
