"""What a result was made with: revision of the code, versions of the libraries, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import read_text, write_text_atomically

FILE = "environment.json"
"""The file of a run folder that ``record`` writes."""

_THEN = ", then "

LIBRARIES = ("torch", "torchvision", "flwr", "numpy", "scikit-learn")


def describe() -> dict[str, str]:
    """Revision, versions, processor and, where PyTorch is loaded and sees one, GPU; each as text, by name.

    ``revision`` is git's commit, with ``-dirty`` behind it where tracked files were changed, or, outside of a
    repository, the installed version.
    """
    found = {"revision": revision(), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = f"{_processor()}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")  # not imported for this alone
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def revision() -> str:
    """The commit of the code that runs, ``-dirty`` if it was changed since; the installed version without git."""
    root = Path(__file__).resolve().parents[2]
    try:
        if (root / ".git").exists():
            command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return metadata.version("fps-federated")
    except metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's name as Linux tells it, or what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def record(folder: Path) -> None:
    """Write ``describe()`` into a run folder, behind what earlier calls have written there.

    Where a run went on elsewhere, its processor is "A, then B".
    """
    before, now = read(folder), describe()
    both = {name: _then(before.get(name), now.get(name, "none")) for name in before | now} if before else now
    if both != before:
        write_text_atomically(folder / FILE, json.dumps(both, indent=1) + "\n")


def _then(before: str | None, now: str) -> str:
    """What was recorded, and behind it what is now, where that is not the same."""
    before = before or "none"
    return before if before.split(_THEN)[-1] == now else before + _THEN + now


def read(folder: Path) -> dict[str, str]:
    """What ``record`` wrote into a run folder; nothing where it did not, or where the file is damaged."""
    try:
        found = json.loads(read_text(folder / FILE))
    except (UserError, ValueError, RecursionError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
