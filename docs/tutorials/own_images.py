"""Your own images in a federation, warm-started: ``python docs/tutorials/own_images.py [FOLDER]``.

Your images lie in ``train/CLASS/*.png`` and ``test/CLASS/*.png``. This script makes such a folder from scikit-learn's
digits, deals it to five clients of whom each has few classes, and trains from random weights and from the fractal
encoder. One run of each shows how it works. For a fair comparison, with several seeds and learning rates, take
experiments.compare.
"""

import json
import subprocess
import sys
from pathlib import Path

import cv2
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

REPOSITORY = Path(__file__).resolve().parents[2]
WARM = str(REPOSITORY / "checkpoints" / "fps_r20.pt")


def make_images(folder: Path) -> None:
    """Write 600 digits as PNG files, one folder for each class. Skip this with images of your own."""
    digits = load_digits()
    names = [f"digit-{label}" for label in digits.target]
    parts = train_test_split(digits.images, names, train_size=400, test_size=200, random_state=0, stratify=names)
    for split, images, labels in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), (image * 15).astype("uint8"))


def federate(images: Path, init: str, lr: float, output: Path) -> list[float]:
    """Run a federation and return its test accuracy after each round, the one before training first."""
    where = ["--dataset", f"folder:{images}", "--init", init, "--lr", str(lr), "--output", str(output)]
    flags = "--clients 5 --partition dirichlet --alpha 0.3 --rounds 5 --local-epochs 2 --image-size 16 --augment crop"
    command = [sys.executable, "run_fl.py", *where, *flags.split(), "--threads", "1", "--quiet"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["test_accuracy"] for row in rows]


def main(folder: Path) -> None:
    """Make the images, run both federations, and show what came out."""
    make_images(folder / "images")
    for name, init, lr in (("random weights", "random", 0.05), ("fractal start", WARM, 0.1)):
        curve = federate(folder / "images", init, lr, folder / name.split()[0])
        print(f"{name:<15}", " ".join(f"{accuracy:6.1%}" for accuracy in curve))
    print(f"who has what: {folder / 'fractal' / 'partition.png'}; the curve: {folder / 'fractal' / 'curve.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-images").resolve())
