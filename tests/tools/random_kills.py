"""Kill pre-training runs at random moments and see that what they end with is bit-identical.

    python -m tests.tools.random_kills --kills 50 --methods simsiam moco

Each run is started again with the same configuration after every SIGKILL, until it ends by itself; its encoder must be
that of a run that nobody killed. The state is saved after every step, so that many kills hit a write.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models import checkpoint
from tests.fps_pretrain.probing.few_images import few_images
from tests.tools import warm


def configuration(folder: Path, method: str, workers: int = 0) -> PretrainConfig:
    """A run of two epochs and 16 steps that takes a few seconds and probes and saves all the time."""
    folder.mkdir(parents=True, exist_ok=True)
    return PretrainConfig(
        method=method,
        method_options=("queue=64",) if method == "moco" else (),
        arch="resnet8",
        size=16,
        epochs=2,
        pairs_per_epoch=64,
        batch_size=8,
        precision="32",
        workers=workers,
        device="cpu",
        threads=1,
        log_every=1,
        save_every=1,
        state_every=0.0,
        probe_every=64,
        probe_data=str(few_images(folder / "images")),
        output=folder / "encoder.pt",
        run_dir=folder / "run",
    )


def _train(config: PretrainConfig) -> None:
    from fps_pretrain.training.run import train

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(train(config))


def run_alone(config: PretrainConfig) -> float:
    """Run ``config`` to its end; returns the seconds it took."""
    nothing = warm.context().Process(target=int)  # The first process waits for the imports.
    nothing.start()
    nothing.join()
    began = time.monotonic()
    kill_until_done(config, 0, random.Random(0), 0.0)
    return time.monotonic() - began


def kill_until_done(config: PretrainConfig, kills: int, rng: random.Random, span: float) -> list[float]:
    """Run ``config``, killing it ``kills`` times; returns the seconds after which each kill came.

    Args:
        config: the run.
        kills: how many.
        rng: draws the moments.
        span: seconds; a kill comes at most so long after the start before it.

    Raises:
        RuntimeError: a run that was not killed failed.
    """
    context = warm.context()  # Everything is imported, so that kills hit work and not imports.
    started = time.monotonic()
    process = context.Process(target=_train, args=(config,))
    process.start()
    moments: list[float] = []
    while len(moments) < kills:
        after = rng.uniform(0.0, span)
        process.join(after)
        if process.exitcode is not None:  # It was over before the kill.
            if process.exitcode:
                raise RuntimeError(f"the run failed with exit code {process.exitcode}")
            span *= 0.8
        else:
            process.kill()
            process.join()
            moments.append(after)
        process = context.Process(target=_train, args=(config,))
        process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"after {kills} kills the run failed with exit code {process.exitcode}")
    print(f"{config.method}: {kills} kills, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return moments


def digest(config: PretrainConfig) -> str:
    """The digest of the encoder that a run has written."""
    assert config.output is not None
    return str(checkpoint.read_file(config.output)["provenance"]["digest"])


def main() -> int:
    """Compare killed runs with one that was not; 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills for each method")
    parser.add_argument("--per-run", type=int, default=5, help="kills in the life of one run")
    parser.add_argument("--methods", nargs="+", default=["simsiam", "moco"])
    parser.add_argument("--workers", type=int, default=1, help="processes that render pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    differing = 0
    for method in options.methods:
        with tempfile.TemporaryDirectory() as name:
            whole = configuration(Path(name) / "whole", method, options.workers)
            seconds = run_alone(whole)
            done = 0
            while done < options.kills:
                number = min(options.per_run, options.kills - done)
                config = configuration(Path(name) / f"killed-{done}", method, options.workers)
                moments = kill_until_done(config, number, rng, 0.7 * seconds)
                done += number
                same = digest(config) == digest(whole)
                differing += not same
                after = ", ".join(f"{m:.2f}" for m in moments)
                print(f"{method}: killed after {after} s: {'identical' if same else 'DIFFERENT'}")
    print(f"{differing} runs differ" if differing else "all runs are bit-identical")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
