"""The example in CONTRIBUTING.md is a whole algorithm: copied into a checkout, it runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools import warm

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code with the example's file in its place."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    copy = tmp_path / "checkout"
    for name in ("fps_pretrain", "federated"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_fl.py", copy)
    (copy / "federated/algorithms/fedexp.py").write_text(code)
    return copy


def run_fl(checkout: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with (checkout / "stdout").open("w+") as output, (checkout / "stderr").open("w+") as errors:
        program = warm.Program(["run_fl.py", *flags], cwd=checkout, env=environment, stdout=output, stderr=errors)
        return subprocess.CompletedProcess(flags, program.wait(300), output.read(), errors.read())


def test_the_example_of_an_algorithm_runs(checkout: Path) -> None:
    tiny = (
        "--limit-train 60 --limit-test 20 --image-size 8 --validation 0.1 --clients 3 --partition iid --rounds 2 "
        "--local-epochs 1 --batch-size 8 --threads 1 --strategy fedexp --output run"
    )
    done = run_fl(checkout, *tiny.split(), "--fedexp-epsilon", "0.01")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (checkout / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert "fedexp_epsilon: 0.01" in (checkout / "run/config.yaml").read_text()
    refused = run_fl(checkout, "--strategy", "fedexp", "--fedexp-epsilon", "0")
    assert refused.returncode == 2
    assert "--fedexp-epsilon must" in refused.stderr
    assert "--fedexp-epsilon" in run_fl(checkout, "--help").stdout
