"""What a result was made with is recorded once and read back."""

import json
import subprocess

from fps_pretrain.common import environment


def test_a_folder_keeps_what_its_run_began_with_and_went_on_with(tmp_path, monkeypatch):
    environment.record(tmp_path)
    found = environment.read(tmp_path)
    assert found == environment.describe()
    assert {"revision", "python", "torch", "system", "processor"} <= found.keys()
    (tmp_path / environment.FILE).write_text(json.dumps({"revision": "a", "torch": "2", "gpu": "H200"}))
    for revision in ("a", "b", "b", "a"):
        monkeypatch.setattr(environment, "describe", lambda now=revision: {"revision": now, "torch": "2", "numpy": "1"})
        environment.record(tmp_path)
    assert environment.read(tmp_path) == {
        "revision": "a, then b, then a",
        "torch": "2",
        "gpu": "H200, then none",
        "numpy": "none, then 1",
    }


def test_nothing_is_known_of_a_folder_without_a_record(tmp_path):
    assert environment.read(tmp_path) == {}
    for damaged in ("{", "[1]", "\udcff"):
        (tmp_path / environment.FILE).write_bytes(damaged.encode("utf-8", "surrogateescape"))
        assert environment.read(tmp_path) == {}


def test_the_revision_says_whether_the_code_was_changed_since(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "package" / "common" / "environment.py"))

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("a = 1")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "First")
    git("tag", "-a", "v1", "-m", "A release")
    commit = git("rev-parse", "HEAD")[:12]
    (tmp_path / "untracked.txt").touch()
    assert environment.revision() == commit
    (tmp_path / "code.py").write_text("a = 2")
    assert environment.revision() == f"{commit}-dirty"
