"""A federation on several engines: seconds a round, start-up and peak memory, on the same work.

    python -m benchmarks.federation --json federation.json

The engines are a plain PyTorch loop over the clients, this project in process, with worker processes and on Ray, an
ordinary Flower app on Flower's simulation, and pfl-research where it is installed. Each turn is a process of its own,
and the engines take turns, since a machine that others use is noisy. A round's time is the median over all rounds of a
turn but the first; the start-up is what the first takes longer, and all before it. Memory is the peak of the process
and all that it has started, memory that they share counted once. The medians over the turns are in the file, with the
machine.

Loop, in process and pfl have one thread; the others ``--actors`` processes of one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.federation.engines import ENGINES, NEEDS, missing
from benchmarks.federation.work import Work, write_images
from fps_pretrain.common import environment

POLL = 0.2
"""Seconds between two looks at the memory."""

PATIENCE = 3600
"""Seconds after which a turn is ended."""


@dataclass(frozen=True)
class Turn:
    """What was measured of an engine in one turn: seconds and megabytes."""

    seconds_per_round: float
    startup_seconds: float
    peak_mb: float


class TurnFailed(RuntimeError):
    """An engine did not end its rounds; the message has its last words."""


def measure(engine: str, work: Work) -> Turn:
    """Have an engine do the work in a process of its own.

    Raises:
        TurnFailed: it did not.
    """
    command = [sys.executable, "-m", "benchmarks.federation.engines", engine]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=work.to_environment())
        peak, watcher = _watch(process.pid)
        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        assert process.stdout is not None
        ends = [float(line.split()[2]) for line in process.stdout if line.startswith("ROUND ")]
        code = process.wait()
        alarm.cancel()
        watcher.join()
        if code or len(ends) < work.rounds:
            errors.seek(0)
            raise TurnFailed(f"{engine} ended with code {code} after {len(ends)} rounds: {errors.read()[-500:]}")
    steady = statistics.median(after - before for before, after in itertools.pairwise(ends))
    return Turn(steady, ends[0] - started - steady, peak[0])


def _watch(process: int) -> tuple[list[float], threading.Thread]:
    """A list whose number grows to the peak of a process tree's memory in MB, and the thread that sees to it."""
    peak = [0.0]

    def look() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(process)
            while top.is_running() and top.status() != psutil.STATUS_ZOMBIE:
                peak[0] = max(peak[0], sum(map(_memory, [top, *top.children(recursive=True)])) / 1e6)
                time.sleep(POLL)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    return peak, watcher


def _memory(process: psutil.Process) -> float:
    """A process's memory in bytes, its share of what is shared; all of that where the system does not tell."""
    with contextlib.suppress(psutil.Error):
        full = process.memory_full_info()
        return float(getattr(full, "pss", full.rss))
    return 0.0


def compare(works: list[Work], engines: list[str], turns: int) -> list[dict[str, Any]]:
    """A row for each work and engine: the medians over the turns."""
    rows = []
    for work in works:
        measured: dict[str, list[Turn]] = {engine: [] for engine in engines}
        for turn in range(turns):
            for engine in engines:
                found = measure(engine, work)
                measured[engine].append(found)
                print(f"{work.clients} x {work.images}, turn {turn + 1}, {engine}: {found}", flush=True)
        for engine, found in measured.items():
            numbers = {name: statistics.median(getattr(one, name) for one in found) for name in vars(found[0])}
            about = {"engine": engine, "model": work.model, "clients": work.clients, "images": work.images}
            rows.append({**about, "precision": work.precision, **{name: round(n, 3) for name, n in numbers.items()}})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| clients | engine | seconds a round | start-up, s | peak memory, MB |", "|---|---|---|---|---|"]
    for row in rows:
        numbers = f"{row['seconds_per_round']:.2f} | {row['startup_seconds']:.1f} | {row['peak_mb']:.0f}"
        lines.append(f"| {row['clients']} x {row['images']} | {row['engine']} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--cases", nargs="+", default=["10x200", "400x3"], help="clients x images of each")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=4, help="of a turn; the first is start-up")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    engines = []
    for engine in options.engines:
        if options.device == "cuda" and engine in NEEDS:
            print(f"{engine} is left out: it is measured on the CPU alone", file=sys.stderr)
        elif library := missing(engine):
            print(f"{engine} is left out: {library} is not installed", file=sys.stderr)
        else:
            engines.append(engine)
    cases = [tuple(map(int, case.split("x"))) for case in options.cases]
    with tempfile.TemporaryDirectory() as folder:
        works = []
        for clients, images in cases:
            data = Path(folder) / f"{clients}x{images}"
            write_images(data, clients * images)
            settings = (options.model, options.precision, options.rounds, options.actors)
            works.append(Work(clients, images, *settings, str(data), options.device))
        rows = compare(works, engines, options.turns)
    print(table(rows))
    if options.json:
        about = {"machine": environment.describe(), "device": options.device, "actors": options.actors}
        content = {**about, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
