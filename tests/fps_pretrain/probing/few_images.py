"""A few labelled images for the probe of a run: thirty cost what counts, the digits cost seconds."""

from __future__ import annotations

from pathlib import Path

from tests.fps_pretrain.images.encoded import grey


def few_images(folder: Path) -> Path:
    """Write two classes of fifteen grey images, and return the folder that ``--probe-data`` takes."""
    for number in range(30):
        path = folder / ("dark", "light")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(grey(60 + 3 * number + 80 * (number % 2)))
    return folder
