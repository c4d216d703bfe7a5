"""Whatever a YAML file holds: a mapping, or one line that names the file and the line or option."""

from __future__ import annotations

from pathlib import Path

import pytest

from fps_pretrain.common import yaml_file
from fps_pretrain.common.errors import UserError


def test_plain_values_survive(tmp_path: Path) -> None:
    values = {"a": 1, "b": 0.1, "c": "text", "d": None, "e": True, "f": ["x", 2], "g": 1e-5}
    yaml_file.write(tmp_path / "f.yaml", values)
    assert yaml_file.read(tmp_path / "f.yaml") == values
    assert list(yaml_file.read(tmp_path / "f.yaml")) == list(values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "f.yaml must map options to values"),
        (b"- a\n", "f.yaml must map options to values"),
        (b"just words\n", "f.yaml must map options to values"),
        (b"!!set {a}\n", "f.yaml must map options to values"),
        (b"a: [\n", "f.yaml is not YAML, line 2"),
        (b"a: 1\nb: 2\n  c: 3\n", "f.yaml is not YAML, line 3"),
        (b"a: 1\n--- \nb: 2\n", "f.yaml is not YAML"),
        (b"a: \x00\n", "f.yaml is not YAML"),
        (b"a: \xff\n", "f.yaml cannot be read: it is not text in UTF-8"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "f.yaml is nested too deeply"),
        (b"a: 1\nlr: " + b"9" * 5000, "f.yaml, line 2: lr is not a value"),
        (b"lr: 0x" + b"f" * 5000, "f.yaml, line 1: lr is too large a number"),
        (b"day: 2024-02-31\n", "f.yaml, line 1: day is not a value: day is out of range for month"),
        (b"lr: !!int x\n", "f.yaml, line 1: lr is not a value"),
        (b"lr: !!int ''\n", "f.yaml, line 1: lr is not a value"),
        (b"lr: !!bool x\n", "f.yaml, line 1: lr is not a value"),
        (b"lr: !!timestamp x\n", "f.yaml, line 1: lr is not a value"),
        (b"lr: !!python/object:os.system {}\n", "f.yaml, line 1: lr is not a value"),
        (b"lr: !!binary aGVsbG8=\n", "f.yaml, line 1: lr must be text or a number"),
        (b"lr: !!set {a}\n", "f.yaml, line 1: lr must be text or a number"),
        (b"lr: [1, !!binary aGVsbG8=]\n", "f.yaml, line 1: lr must be text or a number"),
        (b"lr: [1, 0x" + b"f" * 5000 + b"]\n", "f.yaml, line 1: lr is too large a number"),
        (b"a: 1\nb: 2\na: 3\n", "f.yaml, line 3: a is there twice"),
        (b"1: 2\n", "f.yaml, line 1: '1' is no name of an option"),
        (b"? [a, b]\n: 2\n", "f.yaml, line 1: a list or mapping is no name of an option"),
        (b"null: 2\n", "f.yaml, line 1: 'null' is no name of an option"),
        (b"a: &x [1]\n<<: *x\n", "f.yaml, line 2: '<<' is no name of an option"),
        (b"a: *nobody\n", "f.yaml is not YAML, line 1"),
    ],
)
def test_what_is_no_mapping_of_names_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "f.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        yaml_file.read(tmp_path / "f.yaml", "f.yaml")
    message = str(error.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 200


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere cannot be read"):
        yaml_file.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read"):
        yaml_file.read(tmp_path)
    with pytest.raises(UserError, match="cannot be read: it is not a regular file"):
        yaml_file.read(Path("/dev/zero"))  # would never end
