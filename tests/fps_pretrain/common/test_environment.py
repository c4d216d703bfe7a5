"""What a result was made with is recorded once and read back."""

import json

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
