"""What pyproject.toml cannot say: a wheel carries the shipped encoders, which lie in checkpoints/ of the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NAMES = ("fps_r20", "fps_r20_moco", "fps_r20_simsiam")
"""As in fps_pretrain/models/shipped.py, which is not imported here: a build has none of its libraries."""


class BuildWithEncoders(build_py):
    """Copies the encoders to where ``fps_pretrain.models.shipped`` looks for them."""

    def run(self) -> None:
        """Build as always; an editable install reads checkpoints/ itself."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "fps_pretrain", "shipped")
        target.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            shutil.copyfile(Path("checkpoints", f"{name}.pt"), target / f"{name}.pt")


setup(cmdclass={"build_py": BuildWithEncoders})
