"""Pre-train an encoder and see what it learned: ``python docs/tutorials/look_inside.py [FOLDER]``.

An encoder that has learned something puts images of one class near each other. This script trains one on fractals
alone for up to a minute, and asks how often the nearest neighbours of a handwritten digit show the same digit, before
and after.
"""

import subprocess
import sys
from pathlib import Path

from fps_pretrain import load_encoder
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.probing.probe import probe
from fps_pretrain.probing.probe_data import load_probe_data

REPOSITORY = Path(__file__).resolve().parents[2]


def call(command: str, *more: str) -> None:
    """Run a program of this repository."""
    subprocess.run([sys.executable, *command.split(), *more], cwd=REPOSITORY, check=True)


def main(folder: Path, pairs: int = 7_680) -> None:
    """Draw pairs, train on ``pairs`` of them, and compare the encoder with random weights."""
    if not (folder / "pairs").exists():
        call("run_pretrain.py preview --pairs 12 --output", str(folder / "pairs"))
    flags = f"--method simclr --preset quick --epochs 2 --pairs-per-epoch {pairs // 2} --schedule step --threads 1"
    if not (folder / "encoder.pt").exists():
        where = ["--output", str(folder / "encoder.pt"), "--run-dir", str(folder / "run")]
        call(f"run_pretrain.py {flags}", *where)

    digits = load_probe_data("digits", size=32)
    before, after = build_encoder("resnet20", seed=0).eval(), load_encoder(folder / "encoder.pt")
    for name, encoder in (("random", before), ("trained", after)):
        measured = probe(encoder, digits, linear=True)
        print(f"{name:<8} nearest neighbours {measured['knn_accuracy']:.1%}, linear {measured['linear_accuracy']:.1%}")
    print(f"the pairs: {folder / 'pairs' / 'sheet.png'}")
    print(f"loss, probes and pairs with their nearest neighbours: {folder / 'run' / 'training.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/look-inside").resolve())
