"""The package outside of the checkout: wheel and sdist, console commands, shipped encoders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fps_pretrain.common import cli
from fps_pretrain.models import shipped
from fps_pretrain.models.checkpoint import load_encoder
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", shipped.NAMES)
def test_shipped_encoders_are_found_by_name(name: str) -> None:
    assert shipped.resolve(name) == REPOSITORY / "checkpoints" / f"{name}.pt"
    assert load_encoder(name).feature_dim == 64


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fps_r20").write_text("mine")
    assert shipped.resolve("fps_r20") == Path("fps_r20")
    assert shipped.resolve("other") == Path("other")


def test_a_program_is_called_what_the_user_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fps-federate", "--help"])
    assert cli.program("run_fl.py", "fps-federate") == "fps-federate"
    monkeypatch.setattr(sys, "argv", ["run_fl.py"])
    assert cli.program("run_fl.py", "fps-federate") == "run_fl.py"


def call(*command: object, cwd: Path, path: Path | None = None) -> str:
    """The output of a command that sees of this project what is in ``path`` alone."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment = {**kept, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_installs_and_runs_without_the_checkout(tmp_path: Path, kind: str) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    copy, built, target = tmp_path / "copy", tmp_path / "built", tmp_path / "target"
    for name in files.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, copy / name)
    built.mkdir()
    backend = f"from setuptools import build_meta as b; b.build_{kind}({str(built)!r})"
    call(sys.executable, "-c", backend, cwd=copy)
    (archive,) = built.iterdir()
    shutil.rmtree(copy)
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    call(sys.executable, "-m", "pip", *install, archive, cwd=tmp_path)

    for command, script in (("fps-federate", "run_fl"), ("fps-pretrain", "run_pretrain"), ("fps-compare", "compare")):
        said = call(sys.executable, target / "bin" / command, "--help", cwd=tmp_path, path=target)
        assert f"usage: {command} " in said
        assert f"{script}.py [" not in said
    where = "import fps_pretrain, federated; print(fps_pretrain.__file__, federated.__file__)"
    assert str(REPOSITORY) not in call(sys.executable, "-c", where, cwd=tmp_path, path=target)
    for package in ("fps_pretrain", "federated", "experiments"):
        assert (target / package / "py.typed").is_file()
    run = (
        *("--init", "fps_r20", "--partition", "iid", "--limit-train", 60, "--limit-test", 20, "--image-size", 8),
        *("--clients", 3, "--rounds", 1, "--threads", 1, "--output", tmp_path / "run"),
    )
    said = call(sys.executable, target / "bin" / "fps-federate", *run, cwd=tmp_path, path=target)
    assert f"{target / 'fps_pretrain' / 'shipped' / 'fps_r20.pt'}: 114 of 114 encoder tensors loaded" in said
    assert (tmp_path / "run" / "evaluation.json").is_file()


def test_the_build_script_has_the_same_names() -> None:
    assert f"NAMES = {shipped.NAMES!r}".replace("'", '"') in (REPOSITORY / "setup.py").read_text()


def test_workflows_do_what_the_repositorys_own_commands_do() -> None:
    folder = REPOSITORY / ".github" / "workflows"
    tests, release = (yaml.safe_load((folder / f"{name}.yml").read_text())["jobs"] for name in ("tests", "release"))
    assert {"run": ".ci/run", "env": {"PYTHON": "python"}} in tests["tests"]["steps"]
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
    assert release["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert (release["build"]["needs"], release["publish"]["needs"]) == ("tests", "build")
    assert release["publish"]["permissions"] == {"id-token": "write"}  # trusted publishing: nobody keeps a token
