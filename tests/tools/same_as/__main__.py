"""Compare what this checkout computes with what another revision does, bit by bit.

    python -m tests.tools.same_as HEAD~3
    python -m tests.tools.same_as v1.0 --only 'pairs-*' scaffold

The revision is checked out beside this checkout, and both run the same commands on this machine, one after the other:
pairs, previews, pre-training, partitions and federations, in 32 bits with one thread and tiny sizes. Compared are the
names, shapes, types and bits of all weights, and all rows of metrics but for what a clock says.

Results that a mended defect changes are known by name (``MENDED`` in cases.py); of these is compared what can be. The
exit code is 0 if nothing else differs, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from tests.tools.same_as.cases import CASES, COMPARABLE, MENDED, Case
from tests.tools.same_as.compare import Outcome, first_difference, read_outcome

ROOT = Path(__file__).resolve().parents[3]
"""The checkout that this file lies in."""


class JobFailed(RuntimeError):
    """A side could not do a job, or was not killed where it was to be."""


@dataclass
class Side:
    """A process in a checkout that does jobs, and the folder for what comes of them."""

    name: str
    checkout: Path
    folder: Path
    process: subprocess.Popen[str]

    def run(self, job: dict[str, Any], log: Path) -> int:
        """The exit code of a job, below zero for the signal that ended it.

        Raises:
            JobFailed: the process has gone.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({**job, "log": str(log)}) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise JobFailed(f"the {self.name} side has ended")
        return int(answer)


@contextlib.contextmanager
def checked_out(revision: str, path: Path) -> Iterator[Path]:
    """A worktree of a revision, removed at the end.

    Raises:
        SystemExit: there is no such revision.
    """
    git = ["git", "-C", str(ROOT)]
    commit = [*git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    found = subprocess.run(commit, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"same_as: error: there is no revision {revision}")
    try:
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(path), found.stdout.strip()], check=True)
        yield path
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(path)], capture_output=True)
        shutil.rmtree(path, ignore_errors=True)
        subprocess.run([*git, "worktree", "prune"], capture_output=True)


@contextlib.contextmanager
def side(name: str, checkout: Path, folder: Path) -> Iterator[Side]:
    """Start a side, and end it and all it has started."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "TQDM_DISABLE": "1"}
    environment = {**os.environ, **threads, **quiet, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("child.py"))],
        cwd=checkout,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process alone, which then ends that one's whole group
    )
    try:
        yield Side(name, checkout, folder, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write_inputs(folder: Path) -> dict[str, str]:
    """A folder of images by class and maker, and a file of codes; returns what stands for them in the flags."""
    rng = np.random.default_rng(0)
    for split, each in (("train", 4), ("test", 1)):
        for label in "abc":
            for who in ("w", "x", "y", "z"):
                place = folder / "images" / split / label / who
                place.mkdir(parents=True)
                for number in range(each):
                    cv2.imwrite(str(place / f"{number}.png"), rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    turns = rng.uniform(0, 2 * np.pi, (20, 4))
    linear = 0.6 * np.stack([np.cos(turns), -np.sin(turns), np.sin(turns), np.cos(turns)], -1).reshape(20, 4, 2, 2)
    maps = np.concatenate([linear, rng.uniform(-1, 1, (20, 4, 2, 1))], axis=3)
    np.savez(folder / "codes.npz", maps=maps, sizes=rng.integers(2, 5, 20))
    return {"{images}": str(folder / "images"), "{codes}": str(folder / "codes.npz")}


def job_of(case: Case, extra: tuple[str, ...], folder: Path, inputs: dict[str, str]) -> dict[str, Any]:
    """What a side is to do for a case, with its results in ``folder``."""
    if case.program == "pairs":
        return {"pairs": case.pairs, "folder": str(folder)}
    flags = [*case.flags, *extra]
    for name, path in inputs.items():
        flags = [flag.replace(name, path) for flag in flags]
    script, *words = case.program.split()
    if "preview" in words:
        results = ["--output", str(folder / "pictures")]
    elif script == "run_pretrain.py":
        results = ["--output", str(folder / "encoder.pt"), "--run-dir", str(folder / "run")]
    else:
        results = ["--output", str(folder / "run")]
    return {"command": [script, *words, *flags, *results]}


def outcome_of(case: Case, at: Side, extra: tuple[str, ...], inputs: dict[str, str], kills: tuple[int, ...]) -> Outcome:
    """Do a case's run at a side, through so many kills, and read what came of it.

    Raises:
        JobFailed: it failed.
    """
    folder = at.folder / f"{case.name}{'-killed' if kills else ''}"
    folder.mkdir(parents=True)
    job, log = job_of(case, extra, folder, inputs), folder / "log.txt"
    metrics = folder / "run" / ("metrics.jsonl" if case.program == "run_fl.py" else "metrics.csv")
    try:
        for lines in kills:
            code = at.run({**job, "kill": [str(metrics), lines]}, log)
            if code != -signal.SIGKILL:
                raise JobFailed(f"the {at.name} side was not killed at line {lines} of its metrics: {_said(code, log)}")
        if code := at.run(job, log):
            raise JobFailed(f"the {at.name} side failed with {_said(code, log)}")
        return read_outcome(folder)
    except FileNotFoundError as error:
        raise JobFailed(f"the {at.name} side: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _said(code: int, log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"exit code {code}: {lines[-1] if lines else 'nothing said'}"


def compare(case: Case, old: Side, new: Side, known: tuple[str, str], inputs: dict[str, str]) -> tuple[str, str]:
    """Run a case at both sides; returns ``identical``, ``mended`` or ``DIFFERENT``, and the reason."""
    known_to_old, known_to_new = known
    new_flags = tuple(word for flag, value in case.new if flag in known_to_new for word in (flag, value))
    old_flags = tuple(word for pair in case.old for word in pair)
    if all(flag in known_to_old for flag, _ in case.new):  # the old side is young enough for them
        old_flags += new_flags
    try:
        outcomes = outcome_of(case, old, old_flags, inputs, ()), outcome_of(case, new, new_flags, inputs, case.kills)
    except JobFailed as error:
        return "DIFFERENT", str(error)
    found = first_difference(*outcomes)
    if found and case.name in MENDED:
        found = first_difference(*map(COMPARABLE[case.name], outcomes))
        if found is None:
            return "mended", MENDED[case.name]
    return ("DIFFERENT", f"first difference: {found}") if found else ("identical", "")


def known_flags(at: Side) -> str:
    """What both programs' ``--help`` says at a side.

    Raises:
        SystemExit: one says nothing.
    """
    said = []
    at.folder.mkdir(parents=True)
    for program in ("run_fl.py", "run_pretrain.py"):
        log = at.folder / f"{program}-help.txt"
        if code := at.run({"command": [program, "--help"]}, log):
            raise SystemExit(f"same_as: error: {program} --help failed with {_said(code, log)}")
        said.append(log.read_text())
    return "\n".join(said)


def chosen(patterns: list[str] | None) -> list[Case]:
    """The cases whose names match one of the patterns, or all.

    Raises:
        SystemExit: a pattern matches none.
    """
    names = [case.name for case in CASES]
    for pattern in patterns or ():
        if not fnmatch.filter(names, pattern):
            raise SystemExit(f"same_as: error: no case is called {pattern}: see --list")
    return [case for case in CASES if not patterns or any(fnmatch.fnmatch(case.name, p) for p in patterns)]


def run_all(cases: list[Case], revision: str) -> int:
    """Compare all cases, a line each; returns the exit code."""
    started = time.monotonic()
    verdicts: dict[str, list[str]] = {"identical": [], "mended": [], "DIFFERENT": []}
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same-as-", ignore_cleanup_errors=True)))
        inputs = write_inputs(place)
        old = stack.enter_context(
            side("old", stack.enter_context(checked_out(revision, place / "checkout")), place / "old")
        )
        new = stack.enter_context(side("new", ROOT, place / "new"))
        known = known_flags(old), known_flags(new)
        for number, case in enumerate(cases, 1):
            verdict, reason = compare(case, old, new, known, inputs)
            line = f"{verdict}  {case.name}{': ' if reason else ''}{reason}"
            verdicts[verdict].append(line)
            print(f"{line}  ({number}/{len(cases)}, {time.monotonic() - started:.0f} s)", flush=True)
    print(f"identical: {len(verdicts['identical'])} of {len(cases)}")
    if verdicts["mended"]:
        print(f"mended: {len(verdicts['mended'])}")
    if verdicts["DIFFERENT"]:
        print(f"DIFFERENT: {len(verdicts['DIFFERENT'])}", *verdicts["DIFFERENT"], sep="\n")
    return int(bool(verdicts["DIFFERENT"]))


def _stop(*_: object) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the worktree is removed in peace
    raise KeyboardInterrupt


def main() -> int:
    """Compare this checkout with a revision; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", help="what to compare with: a commit, branch or tag")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of cases, or patterns such as 'pairs-*'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and compare nothing")
    options = parser.parse_args()
    cases = chosen(options.only)
    if options.list:
        print(*(f"{c.name}{f' (mended: {MENDED[c.name]})' if c.name in MENDED else ''}" for c in cases), sep="\n")
        return 0
    if options.revision is None:
        parser.error("which revision?")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        return run_all(cases, options.revision)
    except KeyboardInterrupt:
        print("same_as: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
