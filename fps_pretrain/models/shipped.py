"""Encoders by name: those that come with this project, ``--init fps_r20``, and those on the hub.

A checkout has the first in checkpoints/. A wheel carries copies, which setup.py puts into ``fps_pretrain/shipped``.
"""

from __future__ import annotations

from pathlib import Path

from fps_pretrain.models import hub

NAMES = ("fps_r20", "fps_r20_moco", "fps_r20_simsiam")
"""What they are called; checkpoints/README.md says what each is."""

_PACKAGE = Path(__file__).resolve().parent.parent
FOLDERS = (_PACKAGE.parent / "checkpoints", _PACKAGE / "shipped")
"""Where they may be: in a checkout, in an installed package."""


def resolve(path: Path | str) -> Path:
    """The file of a shipped encoder's name or of weights on the hub; any other path, or an existing file's, as it is.

    Raises:
        UserError: the hub does not give the weights (``hub.download``).
    """
    if str(path).startswith(hub.PREFIX):
        return hub.download(str(path))
    if str(path) in NAMES and not Path(path).is_file():
        for folder in FOLDERS:
            if (found := folder / f"{path}.pt").is_file():
                return found
    return Path(path)
